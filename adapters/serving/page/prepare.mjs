// Prepare: from pixels to the graph's input, as `camcore.adapters.images.prepare` does it, to the bit.
//
// A browser's own resizing is another in each browser; Pillow's is the one that weights were measured
// with. Pictures are {data, width, height} with four bytes a pixel, as a canvas gives them, on the way
// in, and with three behind `withoutAlpha`.

const CHANNELS = 3;

/** The input {data, dims} for opaque pixels, and `placement`, the part of the picture it shows. */
export function prepare(pixels, spec) {
  let picture = withoutAlpha(pixels);
  if (spec.channels === 1) picture = grey(picture);
  picture = resize(picture, resized(picture, spec.resize), spec.interpolation);
  const scale = [pixels.width / picture.width, pixels.height / picture.height];
  let seen = [0, 0, picture.width, picture.height];
  if (spec.crop) {
    seen = centre(picture, spec.crop);
    picture = crop(picture, seen);
  }
  const size = [spec.width ?? picture.width, spec.height ?? picture.height];
  picture = resize(picture, size, spec.interpolation);
  const [left, top, right, bottom] = seen.map((edge, axis) => edge * scale[axis % 2]);
  return { ...toInput(picture, spec), placement: { left, top, right, bottom } };
}

function withoutAlpha({ data, width, height }) {
  const kept = new Uint8Array(CHANNELS * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    kept[to++] = data[from];
    kept[to++] = data[from + 1];
    kept[to++] = data[from + 2];
  }
  return { data: kept, width, height };
}

/** In grey, three times, by ITU-R 601-2 as Pillow rounds it. */
function grey({ data, width, height }) {
  const levels = new Uint8Array(data.length);
  for (let at = 0; at < data.length; at += CHANNELS) {
    const sum = 19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2];
    levels.fill((sum + 32768) >> 16, at, at + CHANNELS);
  }
  return { data: levels, width, height };
}

/** Width and height with the shorter one at the target, or those of a target [height, width]. */
function resized({ width, height }, target) {
  if (target === null) return [width, height];
  if (Array.isArray(target)) return [target[1], target[0]];
  if (width <= height) return [target, Math.trunc((target * height) / width)];
  return [Math.trunc((target * width) / height), target];
}

/** The centre crop's left, top, right, bottom. */
function centre({ width, height }, [cropHeight, cropWidth]) {
  const start = (have, want) =>
    want > have ? -Math.floor((want - have) / 2) : halfToEven((have - want) / 2);
  const [left, top] = [start(width, cropWidth), start(height, cropHeight)];
  return [left, top, left + cropWidth, top + cropHeight];
}

const halfToEven = (half) => (half % 2 === 0.5 ? Math.floor(half) : Math.round(half));

/** A part of the picture, black where it reaches beyond. */
function crop({ data, width, height }, [left, top, right, bottom]) {
  const part = { width: right - left, height: bottom - top };
  part.data = new Uint8Array(CHANNELS * part.width * part.height);
  const [from, to] = [Math.max(left, 0), Math.min(right, width)];
  for (let y = Math.max(top, 0); y < Math.min(bottom, height); y++) {
    const row = data.subarray(CHANNELS * (y * width + from), CHANNELS * (y * width + to));
    part.data.set(row, CHANNELS * ((y - top) * part.width + from - left));
  }
  return part;
}

function toInput({ data, width, height }, spec) {
  const area = width * height;
  const source = spec.colour === "BGR" ? (channel) => 2 - channel : (channel) => channel;
  if (spec.dtype === "uint8") {
    const values = new Uint8Array(spec.channels * area);
    for (let at = 0; at < values.length; at++) {
      const channel = at % spec.channels;
      values[at] = data[CHANNELS * ((at - channel) / spec.channels) + source(channel)];
    }
    return { data: values, dims: [1, height, width, spec.channels] };
  }
  const { fround } = Math; // single precision at every step, as NumPy has it
  const values = new Float32Array(spec.channels * area);
  for (let channel = 0; channel < spec.channels; channel++) {
    const [mean, std] = [fround(spec.mean[channel]), fround(spec.std[channel])];
    const levels = Float32Array.from({ length: 256 }, (_, level) =>
      fround(fround(fround(level / 255) - mean) / std),
    );
    for (let at = 0, from = source(channel); at < area; at++, from += CHANNELS) {
      values[channel * area + at] = levels[data[from]];
    }
  }
  return { data: values, dims: [1, spec.channels, height, width] };
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// By Pillow's names: how far each filter reaches, and its weight at a distance within that.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, cubic],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** The picture resized as Pillow does it: rows, then columns, or the other way round, each rounded.
 *
 * Which is first tells in the last bit. Since Pillow 13 it is the height where that loses more than
 * twice as much: https://github.com/python-pillow/Pillow/pull/9549
 */
function resize(picture, [width, height], interpolation) {
  if (interpolation.startsWith("nearest")) return nearest(picture, width, height);
  const lost = [picture.width - width, picture.height - height];
  const heightFirst = lost[1] > 0 && lost[1] > 2 * lost[0];
  for (const way of heightFirst ? [tall, wide] : [wide, tall]) {
    picture = way(picture, [width, height], interpolation);
  }
  return picture;
}

function wide({ data, width: have, height }, [width], interpolation) {
  const rows = { count: height, from: CHANNELS * have, to: CHANNELS * width };
  return { data: along(data, have, width, CHANNELS, rows, interpolation), width, height };
}

function tall({ data, width, height: have }, [, height], interpolation) {
  const columns = { count: width, from: CHANNELS, to: CHANNELS };
  const step = CHANNELS * width;
  return { data: along(data, have, height, step, columns, interpolation), width, height };
}

const PRECISION = 22; // bits behind the point of Pillow's weights

/** Lines of `have` pixels as lines of `want`; pixels are `step` apart, lines as they say. */
function along(data, have, want, step, lines, interpolation) {
  if (have === want) return data;
  const result = new Uint8ClampedArray(lines.count * want * CHANNELS);
  // Positions outside, lines inside: columns that lie side by side are read side by side.
  weights(have, want, interpolation).forEach(({ first, values }, position) => {
    for (let line = 0; line < lines.count; line++) {
      const start = line * lines.from + first * step;
      const end = line * lines.to + position * step;
      for (let channel = 0; channel < CHANNELS; channel++) {
        let sum = 1 << (PRECISION - 1);
        for (let tap = 0, at = start + channel; tap < values.length; tap++, at += step) {
          sum += data[at] * values[tap];
        }
        result[end + channel] = sum >> PRECISION;
      }
    }
  });
  return result;
}

/** For each of `want` pixels the first of `have` that it is made of, and the weights from there on. */
function weights(have, want, interpolation) {
  const [reach, weight] = FILTERS[interpolation];
  const scale = have / want;
  const wider = Math.max(scale, 1);
  return Array.from({ length: want }, (_, position) => {
    const middle = (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach * wider + 0.5));
    const last = Math.min(have, Math.trunc(middle + reach * wider + 0.5));
    const values = Array.from({ length: last - first }, (_, tap) =>
      weight((tap + first - middle + 0.5) * (1 / wider)),
    );
    const sum = values.reduce((total, value) => total + value, 0);
    return { first, values: Int32Array.from(values, (value) => fixed(sum ? value / sum : value)) };
  });
}

const fixed = (value) => Math.trunc(value * 2 ** PRECISION + (value < 0 ? -0.5 : 0.5));

function nearest({ data, width: haveWidth, height: haveHeight }, width, height) {
  const sources = (have, want) => {
    const step = have / want;
    let at = step / 2 - step; // by adding up, whose rounding is Pillow's
    return Int32Array.from({ length: want }, () => Math.trunc((at += step)));
  };
  const [columns, rows] = [sources(haveWidth, width), sources(haveHeight, height)];
  const result = new Uint8Array(CHANNELS * width * height);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      const from = CHANNELS * (row * haveWidth + column);
      for (let channel = 0; channel < CHANNELS; channel++) result[to++] = data[from + channel];
    }
  }
  return { data: result, width, height };
}
