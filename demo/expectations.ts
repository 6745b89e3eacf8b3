// What has to hold for the demo to have succeeded, judged by what was seen on the wire, on Redis and in the audio.
import type { MeasuredPhase, MeasuredRecording } from "./recording.ts";

export interface TransferSeen {
  readonly status: string;
  readonly hangup: boolean;
  readonly number: string;
  readonly cause: string;
}
export interface EventSeen {
  readonly event: string;
  readonly seq: number;
}
export interface InviteSeen {
  /** The header lines as they came, in their order. */
  readonly headers: readonly (readonly [name: string, value: string])[];
}
export interface StreamSeen {
  /** Every `address:port` that the stream came from. */
  readonly sources: readonly string[];
  readonly packets: number;
  readonly ssrcs: number;
  /** How often a packet was not the next one of its SSRC. */
  readonly sequenceJumps: number;
}
export interface HeardSeen {
  readonly callerHeardHz: number | undefined;
  readonly operatorHeardHz: number | undefined;
  /** The longest time without a packet at the caller's phone while they talked. */
  readonly callerGapMs: number | undefined;
}

export interface Evidence {
  /** `switch` replies that went over Redis. */
  readonly switches: number;
  readonly transfers: readonly TransferSeen[];
  readonly events: readonly EventSeen[];
  /** INVITE requests that reached the caller's phone, which called itself. */
  readonly invitesToCaller: number;
  /** The first INVITE of each operator who was called. */
  readonly operatorInvites: readonly InviteSeen[];
  readonly callerStream: StreamSeen;
  readonly talk: HeardSeen;
  readonly recording: MeasuredRecording | undefined;
  /** Calls that the media server still holds after the last event. */
  readonly callsLeft: number | undefined;
  readonly fault: string | undefined;
}

/** What the story asks for; the demo sets it, this judges by it. */
export interface Plan {
  readonly transfers: readonly TransferSeen[];
  /** On the first operator's INVITE, byte for byte. */
  readonly headers: Readonly<Record<string, string>>;
  readonly callerHz: number;
  readonly operatorHz: number;
  readonly longestGapMs: number;
}

export interface Finding {
  readonly expected: string;
  readonly held: boolean;
  /** What was seen, in a few words. */
  readonly found: string;
}

/** Quieter than this is silence; speech and tones are far louder. */
const audibleDbfs = -45;
/** Phases shorter than this say little about levels, such as the moment between an answer and its end. */
const shortPhaseSeconds = 0.4;

const same = (a: TransferSeen | undefined, b: TransferSeen | undefined): boolean =>
  a !== undefined &&
  b !== undefined &&
  a.status === b.status &&
  a.hangup === b.hangup &&
  a.number === b.number &&
  a.cause === b.cause;

const outcomeText = (transfer: TransferSeen | undefined): string =>
  transfer === undefined
    ? "none"
    : `${transfer.status} ${transfer.cause}, hangup ${transfer.hangup}, number ${transfer.number}`;

function transferFindings({ transfers, switches }: Evidence, plan: Plan): Finding[] {
  return [
    ...plan.transfers.map((wanted, index) => ({
      expected: `transfer ${index + 1} ends ${outcomeText(wanted)}`,
      held: same(transfers[index], wanted),
      found: outcomeText(transfers[index]),
    })),
    {
      expected: "exactly one transfer event for each switch",
      held: switches === plan.transfers.length && transfers.length === switches,
      found: `${switches} switch replies, ${transfers.length} transfer events`,
    },
  ];
}

function eventFindings({ events }: Evidence): Finding[] {
  const names = events.map(({ event }) => event);
  const gapless = events.every(({ seq }, index) => seq === index + 1);
  const hangups = names.filter((name) => name === "hangup").length;
  return [
    {
      expected: "events are counted from 1 without gaps",
      held: events.length > 0 && gapless,
      found: `${events.length} events, seq ${gapless ? "without gaps" : events.map(({ seq }) => seq).join(" ")}`,
    },
    {
      expected: "call is the first event, hangup the last",
      held: names[0] === "call" && names.at(-1) === "hangup" && hangups === 1,
      found: `first ${names[0] ?? "none"}, last ${names.at(-1) ?? "none"}, ${hangups} hangup`,
    },
    {
      expected: "no command was rejected and nothing warned of",
      held: !names.includes("rejected") && !names.includes("warning"),
      found: names.filter((name) => name === "rejected" || name === "warning").join(", ") || "none",
    },
  ];
}

function wireFindings(evidence: Evidence, plan: Plan): Finding[] {
  const { invitesToCaller, operatorInvites, callerStream, talk } = evidence;
  const first = operatorInvites[0]?.headers ?? [];
  return [
    ...Object.entries(plan.headers).map(([name, value]) => {
      const lines = first.filter(([candidate]) => candidate.toLowerCase() === name.toLowerCase());
      return {
        expected: `the operator's INVITE says ${name}: ${value}`,
        held: lines.length === 1 && lines[0]?.[0] === name && lines[0][1] === value,
        found: lines.map(([candidate, text]) => `${candidate}: ${text}`).join(", ") || "no such header",
      };
    }),
    {
      expected: "every operator's phone was called once",
      held: operatorInvites.length === plan.transfers.length,
      found: `${operatorInvites.length} INVITEs`,
    },
    {
      expected: "the caller's phone saw no re-INVITE",
      held: invitesToCaller === 0,
      found: `${invitesToCaller} INVITEs`,
    },
    {
      expected: "the caller's RTP comes from one place all the time",
      held: callerStream.sources.length === 1 && callerStream.packets > 0,
      found: `${callerStream.packets} packets from ${callerStream.sources.join(", ") || "nowhere"}`,
    },
    {
      // A machine that is busy with something else may lose a few on loopback too.
      expected: "less than one packet of it in a hundred is lost or out of order",
      held: callerStream.packets > 0 && callerStream.sequenceJumps * 100 < callerStream.packets,
      found: `${callerStream.sequenceJumps} jumps, ${callerStream.ssrcs} SSRCs, gap in the talk ${talk.callerGapMs?.toFixed(0) ?? "?"} ms`,
    },
    {
      expected: `in the talk the caller hears the operator's ${plan.operatorHz} Hz`,
      held: talk.callerHeardHz === plan.operatorHz,
      found: `${talk.callerHeardHz ?? "no known"} Hz`,
    },
    {
      expected: `in the talk the operator hears the caller's ${plan.callerHz} Hz`,
      held: talk.operatorHeardHz === plan.callerHz,
      found: `${talk.operatorHeardHz ?? "no known"} Hz`,
    },
  ];
}

/** Names the phases in which something does not hold. */
function inPhases(
  phases: readonly MeasuredPhase[],
  holds: (phase: MeasuredPhase) => boolean,
  show: (phase: MeasuredPhase) => string,
): { readonly held: boolean; readonly found: string } {
  const bad = phases.filter((phase) => !holds(phase));
  const named = (bad.length > 0 ? bad : phases).map((phase) => `${phase.phase} at ${phase.from.toFixed(1)} s`);
  const found = bad.length > 0 ? bad.map((phase, index) => `${named[index]}: ${show(phase)}`) : named;
  return { held: phases.length > 0 && bad.length === 0, found: found.join("; ") || "no such phase" };
}

function recordingFindings(recording: MeasuredRecording | undefined, plan: Plan): Finding[] {
  if (recording === undefined) return [{ expected: "there is a recording", held: false, found: "none" }];
  const long = recording.phases.filter(({ from, to }) => to - from >= shortPhaseSeconds);
  const named = (name: string): readonly MeasuredPhase[] => long.filter(({ phase }) => phase === name);
  const tone = (hz: number | null, dbfs: number): string => `${hz ?? "no known"} Hz, ${dbfs.toFixed(1)} dBFS`;
  const order = recording.phases.map(({ phase }) => phase).filter((phase, index, all) => phase !== all[index - 1]);
  // Each switch is dialled and comes back to the bot; only the first one reaches an operator.
  const wanted = plan.transfers.flatMap(({ status }) =>
    status === "SUCCESS" ? ["dialling", "operator", "bot"] : ["dialling", "bot"],
  );
  return [
    {
      expected: "the recording has two channels",
      held: recording.channels === 2,
      found: `${recording.channels} channels, ${recording.seconds.toFixed(2)} s`,
    },
    {
      expected: `the recording goes ${["bot", ...wanted].join(" → ")}`,
      held: order.join() === ["bot", ...wanted].join(),
      found: order.join(" → "),
    },
    {
      expected: "no time is missing in the recording",
      held: recording.gaps === 0,
      found: `${recording.gaps} gaps`,
    },
    {
      expected: `left: the caller's ${plan.callerHz} Hz in every phase`,
      ...inPhases(
        long,
        ({ left }) => left.pitchHz === plan.callerHz && left.dbfs > audibleDbfs,
        ({ left }) => tone(left.pitchHz, left.dbfs),
      ),
    },
    {
      expected: `right: the operator's ${plan.operatorHz} Hz while they talk`,
      ...inPhases(
        named("operator"),
        ({ right }) => right.pitchHz === plan.operatorHz && right.dbfs > audibleDbfs,
        ({ right }) => tone(right.pitchHz, right.dbfs),
      ),
    },
    {
      expected: "right: the bot's voice while the caller is with the bot",
      ...inPhases(
        named("bot"),
        ({ right }) => right.pitchHz !== plan.operatorHz && right.dbfs > audibleDbfs,
        ({ right }) => tone(right.pitchHz, right.dbfs),
      ),
    },
    {
      expected: `the caller's channel is never silent for ${plan.longestGapMs} ms`,
      held: recording.longestSilenceLeftMs < plan.longestGapMs,
      found: `longest gap ${recording.longestSilenceLeftMs} ms`,
    },
  ];
}

/** Every expectation with what was found; the demo succeeded when all of them held. */
export function judge(evidence: Evidence, plan: Plan): readonly Finding[] {
  return [
    ...(evidence.fault === undefined
      ? []
      : [{ expected: "the story is played to its end", held: false, found: evidence.fault }]),
    ...transferFindings(evidence, plan),
    ...eventFindings(evidence),
    ...wireFindings(evidence, plan),
    ...recordingFindings(evidence.recording, plan),
    {
      expected: "the media server holds no call any more",
      held: evidence.callsLeft === 0,
      found: evidence.callsLeft === undefined ? "it does not answer" : `${evidence.callsLeft} calls`,
    },
  ];
}
