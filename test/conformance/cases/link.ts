import { type RawCall, sdp } from "../../integration/engine-support.ts";
import type { Case } from "../case.ts";
import { accept, deferred, frame, outcome, type SrfDialog, type SrfInstance, type SrfMessage } from "../world.ts";

const authenticate = (secret: string): string => frame(`id-of-the-test|authenticate|${secret}|`);
const options = (uri: string, body: string): string =>
  `id-of-options|sip||\r\nMESSAGE ${uri} SIP/2.0\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n${body}`;

/** Answers every call and notes the dialogs. */
function answers(dialogs: SrfDialog[]): (srf: SrfInstance) => void {
  return (srf) => {
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => dialogs.push(dialog));
    });
  };
}

export const linkCases: readonly Case[] = [
  {
    id: "1.1",
    title: "an application with the right secret learns addresses and version",
    run: async (world) => {
      const { error, hostports, version } = await world.connecting();
      const port = String(world.sipPort);
      return {
        connected: error === null,
        addresses: hostports.replaceAll(port, "PORT").split(",").toSorted().join(" "),
        "version of at least 0.9": /^v(?:0\.9|[1-9])/.test(version),
      };
    },
    engine: {
      connected: true,
      addresses: "tcp/127.0.0.1:PORT udp/127.0.0.1:PORT",
      "version of at least 0.9": true,
    },
  },
  {
    id: "1.2",
    title: "an application with a wrong secret is told and put out",
    run: async (world) => {
      const line = await world.control();
      line.socket.write(authenticate("wrong"));
      const answered = await line.until(() => line.received.includes("|response|"), 5_000);
      const closed = await line.until(() => line.closed, 5_000);
      return { answer: answered ? (line.received.split("|")[3] ?? "") : "none", "connection closed": closed };
    },
    engine: { answer: "NO", "connection closed": true },
  },
  {
    id: "1.3",
    title: "a request of a connection that did not authenticate",
    run: async (world) => {
      const line = await world.control();
      line.socket.write(frame(options(world.peer.uri, "x")));
      const sent = await world.seen((packet) => packet.method === "MESSAGE", 1_500);
      accept(world.peer, sent);
      return { "goes out": sent !== undefined };
    },
    engine: { "goes out": false },
    real: { "goes out": true },
  },
  {
    id: "2.1",
    title: "frames that come byte by byte, and several in one piece",
    run: async (world) => {
      const line = await world.control();
      const body = "Ёлка and ünïcode";
      const message = frame(options(world.peer.uri, body));
      for (const byte of Buffer.from(authenticate(world.server.secret) + message)) {
        await new Promise<void>((resolve) => {
          line.socket.write(Buffer.of(byte), () => {
            resolve();
          });
        });
      }
      const slow = await world.peer.request("MESSAGE");
      accept(world.peer, slow);
      line.socket.write(message + message);
      const quick = [await world.peer.request("MESSAGE"), await world.peer.request("MESSAGE")];
      for (const packet of quick) accept(world.peer, packet);
      return {
        "byte by byte": slow.body === body,
        "two at once": quick.every((packet) => packet.body === body),
        "length in bytes": slow.header("Content-Length") === String(Buffer.byteLength(body)),
      };
    },
    engine: { "byte by byte": true, "two at once": true, "length in bytes": true },
  },
  {
    id: "2.2",
    title: "a frame of 20,000 bytes",
    run: async (world) => {
      const line = await world.control();
      line.socket.write(authenticate(world.server.secret));
      await line.until(() => line.received.includes("|OK|"), 5_000);
      const body = "x".repeat(20_000);
      // Over TCP, as nothing of that size may go over UDP (RFC 3261 §18.1.1).
      line.socket.write(frame(options(`${world.peer.uri};transport=tcp`, body)));
      const answered = await line.until(() => line.received.includes("id-of-options|"), 3_000);
      return { answered: answered };
    },
    engine: { answered: true },
    real: { answered: false },
  },
  {
    id: "23.1",
    title: "in-dialog requests after the application has gone, with another connected",
    run: async (world) => {
      const dialogs: SrfDialog[] = [];
      const srf = await world.application(answers(dialogs));
      const call = world.call();
      await call.establish();
      await world.heard(srf);
      srf.disconnect();
      const informed: string[] = [];
      await world.application((other) => {
        for (const verb of ["info", "bye"]) {
          other.use(verb, (req, res) => {
            informed.push(req.method);
            res.send(200);
          });
        }
      });
      call.send("INFO");
      const info = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "INFO", 15_000);
      call.send("BYE");
      const bye = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "BYE", 15_000);
      return { INFO: info.status, BYE: bye.status, delivered: informed.join(" ") || "nothing" };
    },
    engine: { INFO: 200, BYE: 200, delivered: "INFO BYE" },
    strict: { INFO: 481, BYE: 481, delivered: "nothing" },
    real: { INFO: 481, BYE: 481, delivered: "nothing" },
  },
  {
    id: "24.1",
    title: "two applications take calls in turn, and each gets what belongs to its own",
    run: async (world) => {
      const first: SrfDialog[] = [];
      const second: SrfDialog[] = [];
      await world.application(answers(first));
      await world.application(answers(second));
      const calls: RawCall[] = [];
      for (let count = 0; count < 4; count += 1) {
        const call = world.call();
        await call.establish();
        calls.push(call);
      }
      const reached = deferred<string>();
      const [mine] = first;
      mine?.on("info", (req: SrfMessage, res: { send(status: number): void }) => {
        reached.resolve(req.get("Call-ID"));
        res.send(200);
      });
      const own = calls.find((call) => call.callId === mine?.sip.callId);
      own?.send("INFO");
      await world.peer.response(200, "INFO");
      const owner = await reached.promise;
      for (const call of calls) await call.bye();
      return { "calls each": `${first.length} and ${second.length}`, "INFO reaches its owner": owner === own?.callId };
    },
    engine: { "calls each": "2 and 2", "INFO reaches its owner": true },
  },
  {
    id: "24.2",
    title: "an INVITE that no application wants",
    run: async (world) => {
      await world.application();
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const answer = await world.peer.take("final answer", (one) => one.status >= 200);
      call.send("ACK", { branch: call.lastBranch });
      return { answer: answer.status };
    },
    engine: { answer: 503 },
  },
  {
    id: "24.3",
    title: "another application sends BYE in a dialog that it was only told of",
    run: async (world) => {
      const dialogs: SrfDialog[] = [];
      const srf = await world.application(answers(dialogs));
      const call = world.call();
      await call.establish();
      await world.heard(srf);
      const other = await world.application();
      const ended = other.request("sip:placeholder", { method: "BYE", stackDialogId: dialogs[0]?.id });
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      return { BYE: await outcome(ended, 5_000) };
    },
    engine: { BYE: "success" },
  },
];
