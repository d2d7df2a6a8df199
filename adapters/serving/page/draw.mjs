// Draw: a picture on a canvas, with the colours of a map and boxes over it.

const BOX_WIDTH = 1 / 150; // of the shorter side

/**
 * A picture with a map of the part that `placement` says, or without one.
 *
 * `found` is one of `explained`; `colours` are 256 times [red, green, blue], and `opacity` theirs.
 */
export function draw(canvas, picture, found, placement, { colours, opacity }) {
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!found) return;
  const scale = canvas.width / picture.width;
  const left = placement.left * scale;
  const top = placement.top * scale;
  const width = (placement.right - placement.left) * scale;
  const height = (placement.bottom - placement.top) * scale;
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(found, colours), left, top, width, height);
  context.restore();
  const line = Math.max(1, BOX_WIDTH * Math.min(canvas.width, canvas.height));
  for (const [x1, y1, x2, y2] of found.boxes) {
    const [x, y] = [left + (x1 * width) / found.width, top + (y1 * height) / found.height];
    const [wide, tall] = [((x2 - x1) * width) / found.width, ((y2 - y1) * height) / found.height];
    // White on black, so that they show on every colour.
    for (const [style, thick] of [["black", 2 * line], ["white", line]]) {
      context.strokeStyle = style;
      context.lineWidth = thick;
      context.strokeRect(x, y, wide, tall);
    }
  }
}

/** The map in colours, a canvas of its size. */
function coloured({ values, width, height }, colours) {
  const image = new ImageData(width, height);
  values.forEach((value, at) => {
    const colour = colours[Math.round(255 * Math.min(1, Math.max(0, value)))];
    image.data.set([...colour, 255], 4 * at);
  });
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
