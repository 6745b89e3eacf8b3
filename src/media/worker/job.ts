import type { Tone } from "../audio/tones.ts";

/** Work that would hold up the service's own thread. */
export type MediaJob =
  | { readonly type: "convert"; readonly source: string; readonly target: string; readonly mostSeconds: number }
  | { readonly type: "tones"; readonly tones: readonly Tone[]; readonly target: string }
  /** Renders the recording whose log is `journal`. */
  | { readonly type: "render"; readonly journal: string; readonly spoolFolder: string; readonly folder: string };

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
