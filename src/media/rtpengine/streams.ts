import type { Received } from "../switching/bridge-watch.ts";
import type { NgReply } from "./ng.ts";

/** Reads the reply to `query`; undefined for a leg that it does not have, or without numbers. */
export function receivedFrom(reply: NgReply, tag: string): Received | undefined {
  const streams = at(at(at(at(reply, "tags"), tag), "medias"), 0);
  const list = at(streams, "streams");
  if (!Array.isArray(list)) return undefined;
  let rtpPackets = 0;
  let packets = 0;
  let refused = 0;
  for (const stream of list as readonly unknown[]) {
    const count = Number(at(at(stream, "stats"), "packets") ?? 0);
    const errors = Number(at(at(stream, "stats"), "errors") ?? 0);
    if (!Number.isFinite(count) || !Number.isFinite(errors)) return undefined;
    const flags = at(stream, "flags");
    // Those that were refused are counted as received, too.
    const taken = Math.max(0, count - errors);
    packets += taken;
    refused += errors;
    if (Array.isArray(flags) && flags.includes("RTP")) rtpPackets += taken;
  }
  return { rtpPackets, packets, refused };
}

function at(value: unknown, key: string | number): unknown {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
  return (value as Record<string | number, unknown>)[key];
}
