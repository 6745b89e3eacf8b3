import { expect, test } from "vitest";

import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, LegId, Sdp, TrunkId } from "../../src/call/ids.ts";
import { CallerLeg } from "../../src/sip/caller-leg.ts";
import type { LegContext } from "../../src/sip/leg.ts";
import type { AcceptEvents, DialogEvents, IncomingInvite, ReplyOptions, SipDialog } from "../../src/sip/link/types.ts";
import { readHeaders } from "../../src/sip/message.ts";

// Two messages that cross between us and a remote engine cannot be made to cross on a wire, so both ends are played here.
test("the engine passes on a CANCEL and takes our 200 all the same: the caller is hung up after his ACK", async () => {
  let cancel: (() => void) | undefined;
  let accepting: AcceptEvents | undefined;
  let inDialog: DialogEvents | undefined;
  const sent: string[] = [];
  const posted: CallEvent["type"][] = [];
  let running = 0;
  const dialog = {
    callId: "x",
    localTag: "1",
    remoteTag: "2",
    connected: true,
    remoteUri: "sip:caller@192.0.2.1",
    localContact: "<sip:192.0.2.2>",
    listen: (events: DialogEvents) => {
      inDialog = events;
    },
    send: async (method: string, _options: ReplyOptions) => {
      sent.push(method);
      return { ...readHeaders(""), status: 200, reason: "OK", body: "", sourceAddress: "" };
    },
    forget: () => undefined,
  } satisfies SipDialog;
  const invite = {
    onCancel: (run: (headers: ReturnType<typeof readHeaders>) => void) => {
      cancel = () => run(readHeaders(""));
    },
    accept: (_sdp: string, _headers: unknown, on: AcceptEvents) => {
      accepting = on;
    },
  } as unknown as IncomingInvite;
  const context = {
    // The call waits for its recording: it still takes events, but nobody hangs up for it any more.
    post: (_call: CallId, event: CallEvent) => {
      posted.push(event.type);
      return true;
    },
    release: () => undefined,
    link: { whenUp: async () => true },
    directory: { trunk: () => undefined, takesRefer: () => false },
    clock: {
      now: () => 0,
      wallMs: () => 0,
      after: () => {
        running += 1;
        return { cancel: () => (running -= 1) };
      },
    },
    times: { transactionMs: 1, cancelMs: 1, requestMs: 1, exchangeMs: 1 },
  } as unknown as LegContext;
  const facts = {
    call: "c" as CallId,
    botId: "b",
    trunk: "t" as TrunkId,
    calledNumber: "100",
    caller: { number: "", display: null, withheld: false },
  };
  const leg = new CallerLeg("c/caller" as LegId, facts, invite, context);
  leg.begin();
  leg.accept("v=0" as Sdp);
  cancel?.();
  expect(posted).toEqual(["leg.ended"]);
  accepting?.accepted(dialog);
  expect(sent).toEqual([]);
  inDialog?.acknowledged("");
  await expect.poll(() => sent).toEqual(["BYE"]);
  expect(posted).toEqual(["leg.ended"]);
  expect(running).toBe(0);
});
