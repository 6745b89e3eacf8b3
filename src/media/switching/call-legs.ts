import type { LegId } from "../../call/ids.ts";
import type { AudioDescription, AudioFormats, ChosenFormats, LocalEnd } from "./sdp.ts";

/** One media server, as far as a call must know it. */
export interface MediaServer {
  readonly host: string;
  readonly port: number;
  /** Calls of ours in it. */
  calls: number;
}

export interface CallerLeg {
  remote: AudioDescription;
  formats: ChosenFormats;
  /** Null until the media server has named it. */
  end: LocalEnd | null;
}

export interface OperatorLeg {
  /** The leg's name in the media server. */
  readonly tag: string;
  readonly leg: LegId;
  end: LocalEnd;
  readonly formats: AudioFormats;
  /** His latest description; null until he has sent one. */
  remote: AudioDescription | null;
  /** The text of his latest description before his answer: it is repeated with every 18x. */
  early: string;
}
