import { randomBytes } from "node:crypto";
import { MediaError } from "../media-error.ts";
import { safeName } from "../recording/recorder.ts";
import type { Received } from "../switching/bridge-watch.ts";
import { callerTag } from "../switching/hush.ts";
import { type AudioDescription, readAudio } from "../switching/sdp.ts";
import type { Instance } from "./instances.ts";
import { NgError } from "./ng.ts";
import type { NgClient, NgReply, NgVerb } from "./ng.ts";
import { receivedFrom } from "./streams.ts";

// Sent in every offer and answer. Port latching keeps the caller's port when the far party changes. With strict source a leg
// is heard from one place only, from three seconds after the last offer or answer on.
const common = {
  replace: ["origin", "session connection"],
  ICE: "remove",
  flags: ["trust address", "port latching", "strict source"],
};

/** What the names of a call's media begin with in rtpengine. */
export function ngCallPrefix(call: string): string {
  return `pb-${safeName(call)}-`;
}

export interface NgCallOptions {
  readonly ng: NgClient;
  readonly call: string;
  /** Undefined while the call is in none. */
  readonly instance: () => Instance | undefined;
  /** rtpengine has lost the call: it is told nothing more of it. */
  readonly lost: () => boolean;
  readonly onUnknown: () => void;
}

/** One call as rtpengine is told of it, in the words of its ng protocol. Every command rejects when it fails. */
export class NgCall {
  /** The call's name in rtpengine: no character of it is ever escaped, and it is never used twice. */
  readonly name: string;
  readonly #options: NgCallOptions;

  constructor(options: NgCallOptions) {
    this.#options = options;
    this.name = `${ngCallPrefix(options.call)}${randomBytes(6).toString("hex")}`;
  }

  /** `once`: without repeating it when no reply comes. */
  async request(verb: NgVerb, parameters: object, once = false): Promise<NgReply> {
    const { ng, instance: instanceOf, lost, onUnknown } = this.#options;
    const instance = instanceOf();
    if (instance === undefined) throw new MediaError("not_open", "the call is not anchored");
    if (lost()) throw new MediaError("media_lost", "rtpengine has lost the call");
    try {
      return await ng.request(instance, verb, { "call-id": this.name, ...parameters }, once);
    } catch (error) {
      if (error instanceof NgError && error.unknownCall) onUnknown();
      throw error;
    }
  }

  /** The leg `from`, which is the caller's when left out, is offered to, or answered by, the leg `tag`. */
  async exchange(verb: "offer" | "answer", tag: string, parameters: object, from = callerTag): Promise<NgReply> {
    return this.request(verb, { ...namesOf(tag, from), ...common, ...parameters });
  }

  /** The same, with the end that rtpengine has made. */
  async describe(verb: "offer" | "answer", tag: string, parameters: object): Promise<AudioDescription> {
    const { sdp } = await this.exchange(verb, tag, parameters);
    const outcome = readAudio(typeof sdp === "string" ? sdp : "");
    if (!outcome.ok) throw new MediaError("bad_reply", `rtpengine's ${verb} reply: ${outcome.fault}`);
    return outcome.audio;
  }

  /** Nobody hears a blocked leg. */
  async block(tag: string, on: boolean): Promise<void> {
    await this.request(on ? "blockMedia" : "unblockMedia", { "from-tag": tag, flags: ["directional"] });
  }

  /** Resolves with the length of the file in milliseconds, as soon as it plays. */
  async playFile(tag: string, file: string, times: number): Promise<number> {
    const repeat = times > 1 ? { "repeat-times": times } : {};
    const { duration } = await this.request("playMedia", { "from-tag": tag, file, ...repeat });
    // rtpengine 10.5 says ok to formats it cannot play: only the length tells that it plays.
    if (typeof duration !== "number" || duration <= 0)
      throw new MediaError("play_failed", "rtpengine gave no duration");
    return duration;
  }

  /** What has come from the named legs, of which `tag` is, or is parked beside, the caller's partner. */
  async received(tag: string, ...legs: readonly string[]): Promise<readonly (Received | undefined)[]> {
    const reply = await this.request("query", { "from-tag": callerTag, "to-tag": tag });
    return legs.map((leg) => receivedFrom(reply, leg));
  }

  async deleteLeg(tag: string, from = callerTag): Promise<void> {
    await this.request("delete", { ...namesOf(tag, from), flags: ["to-tag"], "delete-delay": 0 });
  }
}

function namesOf(tag: string, from: string): object {
  return { "from-tag": from, "to-tag": tag, "via-branch": `z9hG4bK-${tag}` };
}
