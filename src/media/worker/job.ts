import type { Tone } from "../audio/tones.ts";
import type { DeliveryMark } from "../recording/mark.ts";

/** Work that would hold up the service's own thread. */
export type MediaJob =
  | {
      readonly type: "convert";
      readonly source: string;
      readonly target: string;
      readonly rate: number;
      readonly mostSeconds: number;
    }
  | { readonly type: "tones"; readonly tones: readonly Tone[]; readonly target: string; readonly rate: number }
  | ({ readonly type: "render" } & RenderOrder);

/** Renders the recording whose log is `journal`. */
export interface RenderOrder {
  readonly journal: string;
  /** Lines of the log that a full disk did not take. */
  readonly unwritten: string;
  readonly spoolFolder: string;
  readonly folder: string;
  /** What is noted beside the finished recording; null when nothing is to be done with it any more. */
  readonly mark: DeliveryMark | null;
}

export interface RenderedRecording {
  readonly file: string;
  readonly sidecar: string;
  /** Length of the audio. */
  readonly durationMs: number;
}

export interface JobResults {
  /** Length in milliseconds. */
  readonly convert: number;
  readonly tones: number;
  readonly render: RenderedRecording;
}

export type JobReply =
  | { readonly ok: true; readonly result: JobResults[MediaJob["type"]] }
  | { readonly ok: false; readonly code: string; readonly message: string };
