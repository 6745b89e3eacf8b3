import type { Effect, Prompt } from "../effect.ts";
import type { CommandId, PlayId } from "../ids.ts";
import type { Command, QueuedReply, Reply } from "../reply.ts";
import type { KeyPolicy } from "../setup.ts";
import type { CallCore, In, Live, OpenTransfer, Playing, Queued, RingPrompt } from "../state.ts";
import { publish, type Step } from "../step.ts";
import type { TransferRequest } from "../transfer.ts";
import { cancelTransfer } from "./dialling.ts";
import { endCall } from "./ending.ts";
import { startDialling } from "./hunt.ts";
import { startReferring } from "./referring.ts";
import { botLost, type Refusal, takenByAnother, transferInProgress } from "./refusal.ts";
import { cancelQueuedSwitch } from "./report.ts";
import { stopped } from "./release.ts";

/** A bot that queues more than this is not talking to a caller any more. */
export const queueMax = 200;

/** All or nothing: the command is tried reply by reply on a copy, which is dropped when one of them cannot be had. */
export function receive(state: Live, command: Command, atMs: number): Step {
  const { commandId } = command;
  const refused = (refusal: Refusal): Step => [state, [publish({ event: "rejected", commandId, ...refusal })]];
  const lost = botLost(state);
  if (lost !== null) return refused(lost);
  const holder = state.core.worker;
  if (holder !== null && command.worker !== null && command.worker !== holder) {
    return refused(takenByAnother("/worker"));
  }
  // Whoever only takes the call has not said anything yet.
  const spoke = command.replies.some(({ type }) => type !== "take" && type !== "release");
  let next: Live = spoke ? { ...state, core: { ...state.core, bot: "heard" } } : state;
  const effects: Effect[] = [publish({ event: "accepted", commandId })];
  for (const [index, reply] of command.replies.entries()) {
    const tried = take(next, reply, { command, index, atMs });
    if ("code" in tried) return refused(tried);
    effects.push(...tried.effects);
    next = tried.next;
  }
  return [next, effects];
}

interface Place {
  readonly command: Command;
  readonly index: number;
  readonly atMs: number;
}

type Tried = { readonly next: Live; readonly effects: readonly Effect[] } | Refusal;

function take(state: Live, reply: Reply, place: Place): Tried {
  const { core } = state;
  const pointer = `/replies/${place.index}`;
  switch (reply.type) {
    case "take":
      if (core.worker !== null && core.worker !== reply.worker) {
        return takenByAnother(`${pointer}/worker`);
      }
      return { next: { ...state, core: { ...core, worker: reply.worker } }, effects: [] };
    case "release":
      if (core.worker !== null && core.worker !== reply.worker) {
        return takenByAnother(`${pointer}/worker`);
      }
      return { next: { ...state, core: { ...core, worker: null } }, effects: [] };
    case "stop":
      return stopAll(state);
    case "switchCancel":
      return takeBack(state, reply.transferId, pointer, place.atMs);
    case "duringRing":
      return addRingPrompts(state, reply.prompts, place);
    case "switch":
      return transferInProgress(state, pointer) ?? enqueue(state, reply, place);
    default:
      return enqueue(state, reply, place);
  }
}

function enqueue(state: Live, reply: QueuedReply, { command, index, atMs }: Place): Tried {
  const { queue } = state.core;
  if (queue.length >= queueMax) {
    return { code: "queue_full", message: `More than ${queueMax} replies wait.`, pointer: `/replies/${index}` };
  }
  const queued: Queued = { reply, commandId: command.commandId, index, arrivedAtMs: atMs };
  return { next: { ...state, core: { ...state.core, queue: [...queue, queued] } }, effects: [] };
}

/** Clears the queue and stops what plays; a `switch` in the queue ends as cancelled, and no prompt is left without its end. */
function stopAll(state: Live): Tried {
  const { core } = state;
  const { playing } = core;
  const silent: Live = { ...state, core: { ...core, queue: [], playing: null } };
  const ring = silent.phase === "dialling" || silent.phase === "referring" ? silent : null;
  return {
    next: ring === null ? silent : { ...ring, transfer: { ...ring.transfer, ringPrompts: [] } },
    effects: [
      ...(playing === null ? [] : ([{ type: "media.stop", leg: playing.leg }] as const)),
      ...(playing?.keys?.by === "info"
        ? ([{ type: "leg.press", play: playing.play, leg: playing.leg, digits: "" }] as const)
        : []),
      ...(playing?.told === true ? [stopped(playing)] : []),
      ...(ring?.transfer.ringPrompts.map(stopped) ?? []),
      ...core.queue
        .filter(({ reply }) => reply.type === "text" || reply.type === "audio")
        .map(({ commandId, index }) => stopped({ commandId, index, part: null })),
      ...cancelQueuedSwitch(core, "cancelled", "bot", false),
    ],
  };
}

/** Prompts for a caller who waits for an operator. */
function addRingPrompts(state: Live, prompts: readonly Prompt[], { command, index }: Place): Tried {
  const pointer = `/replies/${index}`;
  if (state.phase !== "dialling") {
    return { code: "no_transfer", message: "No operator is being called.", pointer };
  }
  const { ringPrompts } = state.transfer;
  if (ringPrompts.length + prompts.length > queueMax) {
    return { code: "queue_full", message: `More than ${queueMax} prompts wait.`, pointer };
  }
  const more = ringPromptsOf(prompts, command.commandId, index);
  return { next: { ...state, transfer: { ...state.transfer, ringPrompts: [...ringPrompts, ...more] } }, effects: [] };
}

function ringPromptsOf(prompts: readonly Prompt[], commandId: CommandId, index: number): readonly RingPrompt[] {
  return prompts.map((prompt, part) => ({ prompt, commandId, index, part }));
}

/** `switchCancel`: a queued `switch`, or a transfer that nobody has answered. */
function takeBack(state: Live, transferId: string | null, pointer: string, atMs: number): Tried {
  const wanted = (request: TransferRequest): boolean => transferId === null || request.transferId === transferId;
  // While an operator passes the caller on, the transfer has been answered by him.
  const answered = state.phase === "dialling" && state.passing?.here === true;
  if ((state.phase === "dialling" || state.phase === "referring") && !answered && wanted(state.transfer.request)) {
    const [next, effects] = cancelTransfer(state, atMs);
    if (next.phase === "withBot") return { next, effects };
  }
  const { core } = state;
  const found = core.queue.find(({ reply }) => reply.type === "switch" && wanted(reply.request));
  if (found === undefined) {
    return { code: "no_transfer", message: "There is no unanswered transfer to cancel.", pointer };
  }
  const rest = core.queue.filter((queued) => queued !== found);
  const told = cancelQueuedSwitch({ ...core, queue: [found] }, "cancelled", "bot", false);
  return { next: { ...state, core: { ...core, queue: rest } }, effects: told };
}

/** Carries out what is due in the queue; called after every event while the caller is here. */
export function advance(state: Live, atMs: number): Step {
  let next: Live = state;
  const effects: Effect[] = [];
  for (;;) {
    const { playing, queue } = next.core;
    const ring = next.phase === "dialling" ? next.transfer.ringPrompts[0] : undefined;
    if (playing === null && ring !== undefined && next.phase === "dialling") {
      const ringPrompts = next.transfer.ringPrompts.slice(1);
      const rest = { ...next, transfer: { ...next.transfer, ringPrompts } };
      const [playsNow, play] = startPlay(rest, ring, ring.part, ring.prompt);
      effects.push(...play);
      next = playsNow;
      continue;
    }
    const head = queue[0];
    // What is heard besides ringback stands in no queue: nothing waits for it.
    if (head === undefined || (playing !== null && playing.part === null)) return [next, effects];
    const step = perform(next, head, atMs);
    if (step === null) return [next, effects];
    effects.push(...step[1]);
    if (step[0].phase === "ending" || step[0].phase === "ended") return [step[0], effects];
    next = step[0];
  }
}

/** One reply that is due, or null when it has to wait. */
function perform(state: Live, head: Queued, atMs: number): Step | null {
  const { reply } = head;
  const core: CallCore = { ...state.core, queue: state.core.queue.slice(1) };
  switch (state.phase) {
    case "offered":
    case "answering":
      // RFC 3261 §15: no BYE before the ACK, so even a hangup waits here.
      return null;
    case "referring":
      return reply.type === "hangup" ? hangUp(state, core, reply, atMs) : null;
    case "ringing":
      // A bot that refuses the call before it was answered. RFC 3261 §21.6.2.
      if (reply.type === "hangup") {
        // RFC 3261 §21.4.18: the callee's end is reached and cannot answer now.
        const order =
          core.bot === "lost"
            ? ({ by: "service", sipCode: 480, reason: "no word from the bot" } as const)
            : ({ by: "bot", sipCode: 603, reason: "Decline" } as const);
        return endCall({ ...state, core }, order, atMs);
      }
      if (state.answer === null) return null;
      return [
        { phase: "answering", core: { ...state.core, answeredAtMs: atMs } },
        [{ type: "leg.accept", leg: core.setup.caller, answer: state.answer }],
      ];
    case "withBot":
    case "dialling":
    case "withOperator":
      return performTalking(state, core, head, atMs);
  }
}

function performTalking(
  state: In<"withBot" | "dialling" | "withOperator">,
  core: CallCore,
  head: Queued,
  atMs: number,
): Step | null {
  const { reply } = head;
  switch (reply.type) {
    case "hangup":
      return hangUp(state, core, reply, atMs);
    case "record":
      return record({ ...state, core }, reply.action);
    case "dtmf":
      return sendDigits(state, core, head, reply);
    case "text":
      if (state.phase !== "withBot") return null;
      return play({ ...state, core }, head, {
        kind: "text",
        text: reply.text,
        lang: reply.lang,
        voice: reply.voice,
      });
    case "audio":
      if (state.phase !== "withBot") return null;
      return play({ ...state, core }, head, { kind: "audio", url: reply.url, times: reply.times });
    case "switch":
      return state.phase === "withBot" ? startTransfer(core, reply.request, head) : null;
  }
}

function hangUp(state: Live, core: CallCore, reply: Extract<Reply, { type: "hangup" }>, atMs: number): Step {
  const { headers } = reply;
  const who =
    core.bot === "lost"
      ? ({ by: "service", reason: "no word from the bot" } as const)
      : ({ by: "bot", reason: "hung up by the bot" } as const);
  return endCall({ ...state, core }, { ...who, sipCode: null, headers }, atMs);
}

function play(
  state: Live,
  queued: Queued,
  prompt: Prompt,
  toLeg = state.core.setup.caller,
): readonly [Live, readonly Effect[]] {
  return startPlay(state, queued, null, prompt, toLeg);
}

function startPlay(
  state: Live,
  { commandId, index }: Pick<Queued, "commandId" | "index">,
  part: number | null,
  prompt: Prompt,
  toLeg = state.core.setup.caller,
): readonly [Live, readonly Effect[]] {
  const { core } = state;
  const plays = core.plays + 1;
  const id = `${core.setup.call}/play-${plays}` as PlayId;
  const playing: Playing = {
    play: id,
    leg: toLeg,
    commandId,
    index,
    part,
    told: prompt.kind !== "digits",
    ...(prompt.kind === "digits" && prompt.tones === false
      ? { keys: { digits: prompt.digits, by: "events" } as const }
      : {}),
  };
  return [{ ...state, core: { ...core, plays, playing } }, [{ type: "media.play", play: id, leg: toLeg, prompt }]];
}

/** Keys that did not go the way they were sent go the next one: telephone events, then INFO, tones at last. */
export function sendKeysAnew(
  state: Live,
  { keys, ...playing }: Playing,
  reason: string | null,
): readonly [Live, readonly Effect[]] | null {
  if (keys?.by === "events" && reason === "no_events") {
    const { play, leg } = playing;
    const { digits } = keys;
    const byInfo: Playing = { ...playing, keys: { digits, by: "info" } };
    return [{ ...state, core: { ...state.core, playing: byInfo } }, [{ type: "leg.press", play, leg, digits }]];
  }
  if (keys?.by === "info" && reason === "info_refused") {
    return startPlay(state, playing, null, { kind: "digits", digits: keys.digits }, playing.leg);
  }
  return null;
}

function sendDigits(
  state: In<"withBot" | "dialling" | "withOperator">,
  core: CallCore,
  head: Queued,
  reply: Extract<Reply, { type: "dtmf" }>,
): Step | null {
  if (state.phase === "dialling") return null;
  const { digits, to } = reply;
  const prompt = (policy: KeyPolicy | undefined): Prompt =>
    policy?.byInfo === true ? { kind: "digits", digits, tones: false } : { kind: "digits", digits };
  if (to === "caller") return play({ ...state, core }, head, prompt(core.setup.policy.keys));
  if (state.phase === "withOperator") {
    return play({ ...state, core }, head, prompt(state.transfer.request.route.keys), state.attempt.leg);
  }
  const { commandId, index } = head;
  const message = "No operator is connected, so the digits were not sent.";
  const pointer = `/replies/${index}/to`;
  return [{ ...state, core }, [publish({ event: "warning", commandId, code: "no_operator", message, pointer })]];
}

/** A request that changes nothing is no request: the recording port never sees a resume without a pause. */
function record(state: Live, action: "start" | "pause" | "resume" | "stop"): Step {
  const { core } = state;
  const { recording } = core;
  const set = (to: CallCore["recording"]): Step => [
    { ...state, core: { ...core, recording: to } },
    [{ type: "recording.set", to: action }],
  ];
  switch (action) {
    case "start":
      return recording === "off" ? set("on") : [state, []];
    case "pause":
      return recording === "on" ? set("paused") : [state, []];
    case "resume":
      return recording === "paused" ? set("on") : [state, []];
    case "stop":
      return recording === "off" ? [state, []] : set("off");
  }
}

function startTransfer(core: CallCore, request: TransferRequest, { commandId, index, arrivedAtMs }: Queued): Step {
  const transfer: OpenTransfer = {
    request,
    commandAtMs: arrivedAtMs,
    firstInviteAtMs: null,
    begun: 0,
    called: 0,
    attempts: [],
    ringPrompts: ringPromptsOf(request.duringRing, commandId, index),
    passes: 0,
    talk: null,
  };
  return request.method === "refer" ? startReferring(core, transfer) : startDialling(core, transfer);
}
