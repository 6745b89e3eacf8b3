// What outlives a process: drachtio.md §7.4, 27 and 28.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { RawCall, RawCallee, RawPeer, sdp, tagOf } from "../../integration/engine-support.ts";
import { temporaryFolder } from "../../support/folder.ts";
import { RunningProcess } from "../../support/process.ts";
import { rebuildDialog, type SavedDialog, saveDialog } from "../../support/saved-dialog.ts";
import { waitFor } from "../../support/wait.ts";
import type { Case } from "../case.ts";
import { startCrashing } from "../crashing.ts";
import {
  accept,
  deferred,
  event,
  outcome,
  type SrfDialog,
  type SrfMessage,
  type SrfReply,
  type World,
} from "../world.ts";

const projectFolder = fileURLToPath(new URL("../../..", import.meta.url));

/** A B2BUA in a process of its own that notes its dialogs in a file and makes them again from there. */
async function bridging(world: World, journal: string, callee: RawPeer): Promise<RunningProcess> {
  const app = await RunningProcess.start({
    name: "B2BUA",
    command: "node",
    cwd: projectFolder,
    args: ["--import", "tsx", "test/support/journal-b2bua.ts"],
    env: {
      JOURNAL: journal,
      CONTROL_PORT: String(world.server.controlPort),
      CONTROL_SECRET: world.server.secret,
      CALLEE: callee.uri,
    },
    ready: ({ output }) => output.includes("connected"),
    readyTimeoutMs: 30_000,
  });
  world.closings.add(async () => {
    await app.kill();
  });
  return app;
}

/** The INVITE that takes a dialog back which its server has forgotten (drachtio.md §4.4), and its dialog. */
async function takeBack(
  srf: { createUAC(uri: string, options: object): Promise<SrfDialog> },
  peer: RawPeer,
  { sip, local }: SrfDialog,
): Promise<{ readonly invite: RawCallee["invite"]; readonly dialog: SrfDialog }> {
  const calling = srf.createUAC(peer.uri, {
    localSdp: local.sdp,
    headers: {
      "Call-ID": sip.callId,
      CSeq: "1001 INVITE",
      From: `<sip:bot@localhost>;tag=${sip.localTag}`,
      To: `<${peer.uri}>;tag=${sip.remoteTag}`,
    },
  });
  calling.catch(() => undefined);
  const invite = await peer.take("the INVITE", ({ status, method, header }) => {
    return status === 0 && method === "INVITE" && header("Call-ID") === sip.callId && header("CSeq") === "1001 INVITE";
  });
  peer.reply(invite, 200, "OK", { body: sdp(4000) });
  const dialog = await calling;
  await peer.take("its ACK", ({ method, header }) => method === "ACK" && header("Call-ID") === sip.callId);
  return { invite, dialog };
}

export const recoveryCases: readonly Case[] = [
  {
    id: "27.1",
    title: "a dialog made again from JSON by another application, its first one gone",
    run: async (world) => {
      const { srf, call, dialog } = await world.incoming();
      const text = JSON.stringify(saveDialog(dialog));
      await world.heard(srf);
      srf.disconnect();
      const other = await world.application();
      const rebuilt = rebuildDialog(other, JSON.parse(text) as SavedDialog) as SrfDialog;
      const modified = outcome(rebuilt.modify(sdp(5010, 2)), 5_000);
      const invite = await world.peer.request("INVITE");
      world.peer.reply(invite, 200, "OK", { body: sdp(4010, 2) });
      await world.peer.request("ACK");
      rebuilt.on("info", (_req: SrfMessage, res: SrfReply) => {
        res.send(202);
      });
      call.send("INFO");
      const info = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "INFO");
      const ended = outcome(rebuilt.destroy(), 5_000);
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      return {
        "modify()": await modified,
        "SDP sent": invite.body === sdp(5010, 2),
        "INFO of the peer": info.status,
        "destroy()": await ended,
        tags: tagOf(bye.header("From")) === call.toTag && tagOf(bye.header("To")) === call.fromTag,
      };
    },
    engine: { "modify()": "success", "SDP sent": true, "INFO of the peer": 202, "destroy()": "success", tags: true },
    strict: { "INFO of the peer": 481 },
    real: { "INFO of the peer": 481 },
  },
  {
    id: "28.2",
    title: "kill -9 of the application under a bridged call: another takes it over, then the caller hangs up",
    run: async (world) => {
      const folder = await temporaryFolder("journal");
      world.closings.add(async () => {
        await folder[Symbol.asyncDispose]();
      });
      const journal = join(folder.path, "journal");
      const operator = await RawPeer.open(world.closings);
      const first = await bridging(world, journal, operator);
      const caller = world.call();
      caller.send("INVITE", { body: sdp(4000) });
      const callee = new RawCallee(operator, await operator.request("INVITE"));
      callee.reply(200, "OK", { body: sdp(6000) });
      await operator.request("ACK");
      const ok = await world.peer.response(200, "INVITE");
      caller.toTag = tagOf(ok.header("To"));
      caller.send("ACK");
      await waitFor(() => existsSync(journal), { what: "the note of the call" });
      await first.kill();
      const second = await bridging(world, journal, operator);
      caller.send("BYE");
      const answer = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "BYE");
      const bye = await operator.request("BYE", answer.status === 200 ? 10_000 : world.soonMs).catch(() => undefined);
      accept(operator, bye);
      if (bye === undefined) {
        callee.send("BYE");
        await operator.take("answer", (one) => one.status >= 200 && one.method === "BYE");
      }
      return {
        "made again": second.output.trim(),
        "answer to the caller's BYE": answer.status,
        "BYE to the callee": bye !== undefined,
      };
    },
    engine: { "made again": "connected 1", "answer to the caller's BYE": 200, "BYE to the callee": true },
    strict: { "answer to the caller's BYE": 481, "BYE to the callee": false },
    real: { "answer to the caller's BYE": 481, "BYE to the callee": false },
  },
  {
    id: "28.3",
    title:
      "kill -9 of the server under a bridged call: both legs are taken back by re-INVITE, then the caller hangs up",
    run: async (world) => {
      const { personality, secret } = world.server;
      // 64·T1 has to outlast whatever else the machine does meanwhile.
      const server = await startCrashing(personality, { t1Ms: 100, secret }, world.closings);
      const operator = await RawPeer.open(world.closings);
      const { srf } = await world.connecting(secret, server.controlPort);
      const bridged = deferred<{ uas: SrfDialog; uac: SrfDialog }>();
      srf.invite((req, res) => {
        srf.createB2BUA(req, res, operator.uri, { localSdpB: req.body }).then(bridged.resolve, bridged.reject);
      });
      await world.heard(srf);
      const caller = new RawCall(world.peer, server.sipPort);
      caller.send("INVITE", { body: sdp(4000) });
      const callee = new RawCallee(operator, await operator.request("INVITE"));
      callee.reply(200, "OK", { body: sdp(6000) });
      await operator.request("ACK");
      const ok = await world.peer.response(200, "INVITE");
      caller.toTag = tagOf(ok.header("To"));
      caller.send("ACK");
      const { uas, uac } = await bridged.promise;
      await server.kill();
      await server.start();
      const { srf: again } = await world.connecting(secret, server.controlPort);
      const first = await takeBack(again, world.peer, uas);
      const second = await takeBack(again, operator, uac);
      const destroyed = event(first.dialog, "destroy", 5_000);
      caller.send("BYE");
      const answer = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "BYE");
      const heard = (await destroyed) !== undefined;
      const ended = second.dialog.destroy();
      const bye = await operator.request("BYE");
      accept(operator, bye);
      return {
        "same session for the caller": first.invite.body === ok.body,
        "same session for the callee": second.invite.body === callee.invite.body,
        "answer to the caller's BYE": answer.status,
        "destroy event": heard,
        "tags of the BYE to the callee":
          tagOf(bye.header("From")) === tagOf(callee.invite.header("From")) && tagOf(bye.header("To")) === callee.tag,
        "destroy()": await outcome(ended, 5_000),
      };
    },
    engine: {
      "same session for the caller": true,
      "same session for the callee": true,
      "answer to the caller's BYE": 200,
      "destroy event": true,
      "tags of the BYE to the callee": true,
      "destroy()": "success",
    },
  },
];
