// Explain: an exported file in onnxruntime-web, from the bytes of the file to scores and maps.

import { readCard } from "./card.mjs";

/** The file of these bytes (Uint8Array) ready to run, with its card. */
export async function load(content, ort) {
  const card = readCard(content); // first: the session may take the bytes away
  const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  return { card, session, ort };
}

export const isDetector = (card) => card.outputs.includes("detection_maps");

/** Whether the classes to explain can be chosen; an input with a default, the runtime does not know. */
export const takesIds = ({ session }) => session.inputNames.includes("class_ids");

export const className = (card, index) => card.class_names?.[index] ?? String(index);

/**
 * The outputs {data, dims} by their names for a prepared image and the ids of classes, -1 the best.
 *
 * A file that takes its passes in steps tells `progress(done, total)` of each.
 */
export async function explain(model, { data, dims }, ids, progress = () => {}) {
  const { card, session, ort } = model;
  const int64 = (values, shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  // Copies each time: a runtime in a worker takes away what it is given.
  const feeds = () => ({
    image: new ort.Tensor(card.image.dtype, data.slice(), dims),
    ...(takesIds(model) ? { class_ids: int64(ids, [1, ids.length]) } : {}),
  });
  if (!card.steps) return session.run(feeds());
  const classes = takesIds(model) ? ids.length : ownClasses(card);
  const shape = stateShape(card, dims, classes);
  let state = new ort.Tensor("float32", new Float32Array(product(shape)), shape);
  let outputs;
  for (let step = 0; step < card.steps; step++) {
    progress(step, card.steps);
    outputs = await session.run({ ...feeds(), steps: int64([step], [1]), state });
    state = outputs.next_state;
  }
  return outputs;
}

/** How many classes a file explains that chooses by itself. */
const ownClasses = (card) => (card.class_ids === "all" ? card.num_classes : card.top);

function stateShape(card, dims, classes) {
  const [height, width] = card.image.dtype === "uint8" ? dims.slice(1, 3) : dims.slice(2);
  const known = { batch: 1, classes, height, width };
  return card.state.map((axis) => known[axis] ?? axis);
}

const product = (lengths) => lengths.reduce((all, length) => all * length, 1);

// Targets whose classes are the columns of the model's output; those of the last are made of one.
const BY_CLASS = ["logit", "probability", "value", "rest", "finer", "binary"];

const target = (card) => card.options.target ?? "logit";

/** The scores of the classes, null where the file gives none: `camcore.adapters.runner.class_scores`. */
export function classScores(card, outputs) {
  if (isDetector(card) || !BY_CLASS.includes(target(card))) return null;
  const isBinary = target(card) === "binary";
  const own = card.outputs.slice(0, card.outputs.indexOf("classes"));
  const found = (card.explained === null ? own : [card.explained])
    .map((name) => outputs[name])
    .filter(({ data, dims }) => dims.length < 3 && data.length === (isBinary ? 1 : card.num_classes));
  if (found.length !== 1) return null;
  const scores = Array.from(found[0].data);
  return isBinary ? [-scores[0], scores[0]] : scores;
}

/** What the scores stand for, null where they stand for none: `runner.class_probabilities`. */
export function classProbabilities(card, scores) {
  const kind = card.probabilities ?? usualProbabilities(card);
  if (kind === "sigmoid") return scores.map((score) => 0.5 + 0.5 * Math.tanh(score / 2));
  if (kind !== "softmax") return kind === "scores" ? scores : null;
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function usualProbabilities(card) {
  if (target(card) === "binary" || (target(card) === "logit" && card.num_classes === 1)) {
    return "sigmoid";
  }
  return ["logit", "probability", "rest", "finer"].includes(target(card)) ? "softmax" : "none";
}

/** The explained classes or detections: {index, score, values, width, height, boxes} each.
 *
 * The values of a map are in [0, 1]; boxes are in the pixels of the graph's image.
 */
export function explained(card, outputs) {
  const maps = outputs[isDetector(card) ? "detection_maps" : "saliency_map"];
  const [height, width] = maps.dims.slice(-2);
  const count = product(maps.dims) / (height * width);
  const labels = outputs[isDetector(card) ? "labels" : "classes"].data;
  const scores = isDetector(card) ? outputs.scores.data : classScores(card, outputs);
  return Array.from({ length: count }, (_, k) => {
    const index = Number(labels[k]);
    const values = maps.data.subarray(k * height * width, (k + 1) * height * width);
    return {
      index,
      score: scores?.[isDetector(card) ? k : index] ?? null,
      values: card.options.normalize === false ? normalised(values) : values,
      width,
      height,
      boxes: boxes(card, outputs, k),
    };
  });
}

function normalised(values) {
  const [low, high] = values.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
  return values.map((value) => (high > low ? (value - low) / (high - low) : 0));
}

/** Boxes [x1, y1, x2, y2] of a class's map, or that of a detection; without padding. */
function boxes(card, outputs, k) {
  if (!outputs.boxes) return [];
  const each = isDetector(card) ? 1 : card.boxes;
  const all = Array.from({ length: each }, (_, m) => {
    const first = 4 * (k * each + m);
    return Array.from(outputs.boxes.data.subarray(first, first + 4));
  });
  return all.filter(([x1, y1, x2, y2]) => x2 > x1 && y2 > y1);
}
