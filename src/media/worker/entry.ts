// Runs in a worker thread: does one job after the other at low priority, so that calls always come first.
import { setPriority } from "node:os";
import { parentPort } from "node:worker_threads";
import { codeOf, messageOf } from "../media-error.ts";
import { convertToPrompt, writeTonePrompt } from "../prompts/convert.ts";
import { renderRecording } from "../recording/render.ts";
import type { JobReply, JobResults, MediaJob } from "./job.ts";

const niceness = 10;

function perform(job: MediaJob): JobResults[MediaJob["type"]] {
  switch (job.type) {
    case "convert":
      return convertToPrompt(job.source, job.target, job.rate, job.mostSeconds);
    case "tones":
      return writeTonePrompt(job.tones, job.target, job.rate);
    case "render":
      return renderRecording(job);
  }
}

function replyTo(job: MediaJob): JobReply {
  try {
    return { ok: true, result: perform(job) };
  } catch (error) {
    return { ok: false, code: codeOf(error, "internal"), message: messageOf(error) };
  }
}

try {
  // On Linux priority is a thread's own: 0 means this worker and leaves the service's thread as it is.
  setPriority(0, niceness);
} catch {
  // A system that refuses this still renders, only less politely.
}
parentPort?.on("message", (job: MediaJob) => {
  parentPort?.postMessage(replyTo(job));
});
