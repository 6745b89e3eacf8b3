import type { Post } from "../call/ports.ts";
import type { Tone } from "./audio/tones.ts";
import type { RecordingDelivery } from "./recording/delivery.ts";

/** What media/ needs of a logger; a pino logger fits. Fields never hold phone numbers or what a bot said. */
export interface MediaLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface MediaClock {
  /** Milliseconds that only ever grow, for how long something takes. */
  now(): number;
  /** Milliseconds since 1970 by the wall clock, which is also what rtpengine stamps its packets with. */
  wallMs(): number;
  /** Runs `run` once after `ms` milliseconds. */
  after(ms: number, run: () => void): { cancel(): void };
}

export const systemMediaClock: MediaClock = {
  now: () => performance.now(),
  // Not from performance.timeOrigin: that is fixed when the process starts, and a wall clock that is set later would part
  // from rtpengine's and leave every recording empty.
  wallMs: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return {
      cancel() {
        clearTimeout(timer);
      },
    };
  },
};

/**
 * One rtpengine, reached by its ng protocol over UDP. It ends a call on which it receives nothing for `--timeout` (60
 * seconds), and one whose caller has agreed to send nothing (hold) for `--silent-timeout` (an hour): the call is then lost.
 */
export interface RtpengineInstance {
  readonly host: string;
  readonly port: number;
  /** Its `--recording-dir` as this machine sees it, when it is not `recording.spoolFolder`. */
  readonly spoolFolder?: string;
}

export interface PromptOptions {
  /** `file:` URLs may name files below this folder and nothing else; null refuses all of them. */
  readonly folder: string | null;
  /** Converted prompts lie here; it belongs to one running service, and the media server must be able to read it. */
  readonly cacheFolder: string;
  /** Samples a second of converted prompts, always the same in one folder; rtpengine's 48000 when left out. */
  readonly rate?: number;
  /** The same folder as rtpengine sees it, when it runs in another container. */
  readonly cacheFolderSeenByRtpengine?: string;
  /** Least recently used prompts are removed above this. */
  readonly cacheBytes: number;
  /** Largest prompt before conversion, downloaded or not. */
  readonly mostBytes: number;
  readonly mostSeconds: number;
  /** For one download with all its redirects, and for one conversion. */
  readonly timeoutMs: number;
  /** How long a downloaded prompt is used without asking again when its server says nothing about that. */
  readonly freshMs: number;
  /** Redirects that a download follows; 3 when left out. */
  readonly mostRedirects?: number;
  /** Hosts that prompts may be downloaded from, `any` or exact names with or without a port. */
  readonly hosts: readonly string[] | "any";
  /** Downloads at once over all calls, half of them from one host; further ones wait. */
  readonly mostDownloads: number;
}

/** How text becomes speech. */
export type SpeechOptions =
  | { readonly kind: "none" }
  | {
      readonly kind: "command";
      /**
       * Program and arguments; never given to a shell. `{lang}`, `{voice}` and `{out}` are replaced, and `{text}` too when it
       * is there, else the text goes to standard input. Without `{out}` the WAV is read from standard output.
       */
      readonly command: readonly [string, ...string[]];
      readonly lang: string;
      readonly voice: string;
      readonly timeoutMs: number;
      /** Programs at once over all calls. */
      readonly mostAtOnce: number;
    }
  | {
      readonly kind: "http";
      readonly url: string;
      readonly headers: Readonly<Record<string, string>>;
      /** `json` posts `{"text","lang","voice"}`, `text` the bare text. The answer is a WAV file. */
      readonly body: "json" | "text";
      readonly lang: string;
      readonly voice: string;
      readonly timeoutMs: number;
      readonly mostAtOnce: number;
    };

export interface RecordingOptions {
  /** Finished recordings and their sidecars. */
  readonly folder: string;
  /**
   * rtpengine's `--recording-dir` as this machine sees it; packets and the log of what was played wait here. Several
   * services may share it when they share the rtpengines too: what lies there is taken for what a crash has left when
   * rtpengine does not know its call any more.
   */
  readonly spoolFolder: string;
  /** Between two looks at recordings that others have left while their calls go on; a minute when left out. */
  readonly lookAgainMs?: number;
  /** No recording is begun when less is free on its disk, and none goes on with less than half; 100 MB when left out. */
  readonly leastFreeBytes?: number;
  /** Recordings rendered at once. */
  readonly mostRenders: number;
  /** Recordings that may wait for rendering; what comes on top stays in the spool and is looked for later. */
  readonly mostWaiting: number;
  /** What becomes of finished recordings; when left out they stay in `folder` as they are. It outlives the media side. */
  readonly delivery?: RecordingDelivery;
}

export interface MediaLimits {
  readonly mostCalls: number;
  /** Commands of one call that wait for the one before. */
  readonly mostQueuedPerCall: number;
  readonly mostLegsPerCall: number;
}

export const defaultMediaLimits: MediaLimits = { mostCalls: 2_000, mostQueuedPerCall: 64, mostLegsPerCall: 64 };

/** What every media anchor is told. */
export interface AnchorOptions {
  /** For one command to the media server before it is repeated or given up. */
  readonly commandTimeoutMs: number;
  /** Between two health checks of a media server. */
  readonly pingMs: number;
  /** Between two checks that the media server still holds a call. */
  readonly watchMs: number;
  /**
   * A caller who has sent neither RTP nor RTCP for so long is gone; not while he holds the call. Looked at every `watchMs`.
   */
  readonly callerTimeoutMs: number;
  /** An operator who was heard and has sent nothing for so long is asked for; 0: never. */
  readonly talkTimeoutMs: number;
  /** A media server that answers nothing for so long has lost its calls. */
  readonly lostAfterMs: number;
  /** One cycle of what a caller hears while an operator's phone rings; most of Europe: 425 Hz, 1 s on, 4 s off. */
  readonly ringback: readonly Tone[];
  readonly prompts: PromptOptions;
  readonly speech: SpeechOptions;
  /** Null: no recordings; asking for one is answered by `recording.changed` failed. */
  readonly recording: RecordingOptions | null;
  readonly limits: MediaLimits;
  readonly post: Post;
  readonly log: MediaLog;
  readonly clock: MediaClock;
}

/** For the anchor on rtpengine. */
export interface MediaOptions extends AnchorOptions {
  readonly instances: readonly [RtpengineInstance, ...RtpengineInstance[]];
  /** Where rtpengine's `--dtmf-log-dest` points; port 0 takes a free one. */
  readonly dtmf: { readonly address: string; readonly port: number };
  /**
   * Far end of a parked caller, where his packets are thrown away: rtpengine's own loopback, port 9 (discard), or RFC 5737's
   * 192.0.2.1, which is never routed.
   */
  readonly parkingAddress: string;
}

/** A dialog with a media server that speaks SIP. */
export interface MediaSipDialog {
  /** The description in the latest answer. */
  readonly sdp: string;
  /** Sends a re-INVITE; resolves with the description in the answer, rejects with an Error. */
  modify(sdp: string): Promise<string>;
  /** Resolves always. */
  bye(): Promise<void>;
  /** Called once, when the other side has ended it. */
  onEnded(run: () => void): void;
}

/** The signalling side, as far as a media server needs it that is reached by SIP. */
export interface MediaSip {
  /** Rejects with an Error when the INVITE is refused or not answered in time. */
  open(uri: string, headers: Readonly<Record<string, string>>, sdp: string): Promise<MediaSipDialog>;
}

/** One FreeSWITCH. */
export interface FreeswitchServer {
  readonly host: string;
  /** Of its event socket. */
  readonly port: number;
  readonly password: string;
  /** Its SIP profile for us; it must have an IPv4 address. */
  readonly profile: string;
  /** Where we listen for the connections that it makes for every channel; port 0 takes a free one. */
  readonly listenAddress: string;
  readonly listenPort: number;
  /** How it reaches that address, when it is another one for it. */
  readonly advertisedAddress?: string;
}

/** For the anchor on FreeSWITCH. Prompts and recordings lie at the same path for it and for us. */
export interface FreeswitchOptions extends AnchorOptions {
  readonly servers: readonly [FreeswitchServer, ...FreeswitchServer[]];
  readonly sip: MediaSip;
  /** A channel that its service has not spoken of for so long is ended by FreeSWITCH; two minutes when left out. */
  readonly leaseMs?: number;
}
