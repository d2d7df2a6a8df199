// Main: what the page does when it is opened, given a picture, or told a class.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";
import { draw } from "./draw.mjs";
import {
  classProbabilities,
  classScores,
  className,
  explain,
  explained,
  isDetector,
  load,
  takesIds,
} from "./explain.mjs";
import { prepare } from "./prepare.mjs";

const LISTED = 5; // best classes
const LARGEST = 1280; // pixels of the shown picture's longer side

const element = (id) => document.getElementById(id);
const canvas = element("picture");

/** What is shown: the picture, what the file gave for it, and which of that is looked at. */
const view = {
  picture: null,
  input: null,
  asked: null, // the class to explain, null for the best
  outputs: null,
  found: [],
  chosen: 0, // the place in `found`
};
let model, settings, camera;
let busy = false;
let again = false;

start().catch(fail);

async function start() {
  settings = await (await fetch("settings.json")).json();
  element("opacity").value = settings.opacity;
  // Threads want headers that not every server sends.
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.wasmPaths = new URL("onnxruntime/", import.meta.url).href;
  ort.env.wasm.proxy = true; // in a worker, so that the page stays alive
  tell(`loading ${settings.file}`);
  const response = await fetch(encodeURI(settings.file));
  if (!response.ok) throw new Error(`${settings.file}: ${response.status} ${response.statusText}`);
  const began = performance.now();
  model = await load(new Uint8Array(await response.arrayBuffer()), ort);
  const { card } = model;
  document.title = card.model || settings.file;
  element("title").textContent = document.title;
  element("about").textContent = `${card.method} at ${card.layer}, ${card.num_classes} classes`;
  tell(`ready in ${milliseconds(began)}; drop a photo, or use the camera`);
  listen();
  for (const name of settings.examples) addExample(name);
}

function listen() {
  const drop = element("drop");
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  drop.addEventListener("drop", ({ dataTransfer }) => open(dataTransfer.files[0]));
  element("file").addEventListener("change", ({ target }) => open(target.files[0]));
  document.addEventListener("paste", ({ clipboardData }) => open(clipboardData.files[0]));
  element("camera").addEventListener("click", () => toggleCamera().catch(fail));
  element("opacity").addEventListener("input", redraw);
  element("class").addEventListener("change", ({ target }) => askByName(target));
  const { card } = model;
  if (!takesIds(model) && card.class_ids !== "all") return;
  element("chooser").hidden = false;
  element("names").append(
    ...Array.from({ length: card.num_classes }, (_, index) => new Option(className(card, index))),
  );
}

function addExample(name) {
  const image = new Image();
  image.src = `examples/${encodeURIComponent(name)}`;
  image.alt = image.title = name;
  const button = document.createElement("button");
  button.append(image);
  button.addEventListener("click", async () => open(await (await fetch(image.src)).blob()));
  element("examples").append(button);
}

/** Explain the picture of a file. */
async function open(file) {
  if (!file) return;
  try {
    stopCamera();
    // The pixels as they are in the file, as elsewhere: no colour profile, alpha over white.
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    view.asked = null;
    show(bitmap);
    await update();
  } catch (error) {
    fail(new Error(`${file.name ?? "the picture"} cannot be read: ${error.message}`));
  }
}

function show(picture) {
  view.picture = picture;
  view.input = null;
  const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((side) => Math.round(side * scale));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  element("drop").classList.add("filled");
}

/** Explain what is shown; what is asked for meanwhile comes behind it. */
async function update() {
  again = true;
  if (busy) return;
  busy = true;
  try {
    while (again) {
      again = false;
      await explainOnce();
    }
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

async function explainOnce() {
  const { card } = model;
  const began = performance.now();
  view.input ??= prepare(pixels(view.picture), card.image);
  const prepared = performance.now();
  tell("explaining");
  const ids = [view.asked ?? -1];
  view.outputs = await explain(model, view.input, ids, (done, total) =>
    tell(`explaining: ${done} of ${total} steps`),
  );
  const ran = performance.now();
  view.found = explained(card, view.outputs);
  // A file of all classes has them in their own order.
  const scores = classScores(card, view.outputs);
  const wanted = view.asked ?? (scores && best(scores, 1)[0]);
  view.chosen = Math.max(0, view.found.findIndex(({ index }) => index === wanted));
  redraw();
  list();
  tell(`prediction and map in ${Math.round(ran - prepared)} ms, prepared in ${Math.round(prepared - began)} ms`);
}

function pixels(picture) {
  const whole = new OffscreenCanvas(picture.width, picture.height);
  const context = whole.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, picture.width, picture.height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, picture.width, picture.height);
}

function redraw() {
  if (!view.picture) return;
  const how = { colours: settings.colours, opacity: Number(element("opacity").value) };
  draw(canvas, view.picture, view.found[view.chosen], view.input?.placement, how);
}

/** The best classes and the explained ones, or the detections, as rows to choose from. */
function list() {
  const { card } = model;
  const scores = classScores(card, view.outputs);
  const probabilities = scores && classProbabilities(card, scores);
  const rows = scores ? best(scores, LISTED).map((index) => ({ index, place: -1 })) : [];
  view.found.forEach(({ index }, place) => {
    const row = isDetector(card) ? null : rows.find((each) => each.index === index);
    if (row) row.place = place;
    // A file may explain a thousand classes.
    else if (place === view.chosen || view.found.length <= LISTED || isDetector(card)) {
      rows.push({ index, place });
    }
  });
  element("results").replaceChildren(
    ...rows.map(({ index, place }) => {
      const score = scores ? scores[index] : view.found[place].score;
      return row(index, place, score, probabilities?.[index]);
    }),
  );
  if (!rows.length) element("results").textContent = "nothing found";
}

const best = (scores, count) =>
  scores.map((_, index) => index).sort((a, b) => scores[b] - scores[a]).slice(0, count);

function row(index, place, score, probability) {
  const button = document.createElement("button");
  button.className = place === view.chosen ? "row chosen" : "row";
  button.style.setProperty("--share", probability ?? 0);
  const figures = [probability === undefined ? null : percent(probability), score?.toFixed(2)];
  for (const text of [className(model.card, index), figures.filter(Boolean).join("  ")]) {
    button.append(Object.assign(document.createElement("span"), { textContent: text }));
  }
  button.disabled = place < 0 && !takesIds(model);
  button.addEventListener("click", () => (isDetector(model.card) ? choose(place) : ask(index)));
  return button;
}

const percent = (probability) => `${(100 * probability).toFixed(1)}%`;

function choose(place) {
  view.chosen = place;
  redraw();
  list();
}

/** Show the map of a class, which is computed unless it is there. */
function ask(index) {
  view.asked = index;
  const place = view.found.findIndex((each) => each.index === index);
  if (place < 0) update();
  else choose(place);
}

/** Explain the class whose name or index was typed. */
function askByName(input) {
  const { card } = model;
  const wanted = input.value.trim().toLowerCase();
  const names = Array.from({ length: card.num_classes }, (_, index) => className(card, index));
  let index = names.findIndex((name) => name.toLowerCase() === wanted);
  if (index < 0 && /^\d+$/.test(wanted) && wanted < card.num_classes) index = Number(wanted);
  input.setCustomValidity(index < 0 && wanted ? "no such class" : "");
  if (!input.reportValidity() || !wanted || !view.picture) return;
  ask(index);
}

/** Explain what the camera sees, picture by picture, until it is stopped. */
async function toggleCamera() {
  if (camera) return stopCamera();
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  camera = stream;
  element("camera").textContent = "Stop the camera";
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true });
  await video.play();
  view.asked = null;
  while (camera === stream) {
    show(await createImageBitmap(video));
    await update();
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = undefined;
  element("camera").textContent = "Use the camera";
}

const milliseconds = (since) => `${Math.round(performance.now() - since)} ms`;

function tell(text) {
  element("status").textContent = text;
  element("status").classList.remove("failed");
}

function fail(error) {
  stopCamera();
  element("status").textContent = error.message ?? String(error);
  element("status").classList.add("failed");
}
