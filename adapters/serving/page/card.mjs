// Card: what a file says of itself, read from the file's own bytes.

const METADATA_PROPS = 14; // the field of ModelProto; an entry holds a key, field 1, and a value, field 2
const KEY = "camcore";

/**
 * The card among the bytes (Uint8Array) of an ONNX file, as `Card.to_json` of camcore wrote it.
 *
 * onnxruntime-web hands out no metadata; of the outer protobuf fields there are few to walk.
 */
export function readCard(content) {
  for (const [number, entry] of fields(content)) {
    if (number !== METADATA_PROPS) continue;
    const texts = new Map([...fields(entry)].map(([part, bytes]) => [part, text(bytes)]));
    if (texts.get(1) === KEY) return JSON.parse(texts.get(2));
  }
  throw new Error("the file has no camcore card: it was not written by camcore");
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** The numbers and the bytes of a message's length-delimited and fixed fields.
 *
 * https://protobuf.dev/programming-guides/encoding/
 */
function* fields(message) {
  let at = 0;
  const varint = () => {
    // Not by shifts, which know 32 bits.
    for (let value = 0, unit = 1; ; unit *= 128) {
      const byte = message[at++];
      value += (byte & 127) * unit;
      if (byte < 128) return value;
      if (byte === undefined) throw new Error("the file ends in the middle of a number");
    }
  };
  while (at < message.length) {
    const tag = varint();
    const wire = tag % 8;
    const size = { 0: () => varint() * 0, 1: () => 8, 2: varint, 5: () => 4 }[wire]?.();
    if (size === undefined || at + size > message.length) {
      throw new Error("the file is no ONNX file, or was truncated");
    }
    if (wire) yield [Math.floor(tag / 8), message.subarray(at, at + size)];
    at += size;
  }
}
