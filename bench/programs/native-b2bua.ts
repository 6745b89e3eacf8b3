// The engine alone: the SIP core driven through its internal EngineEvents interface by the smallest possible back-to-back
// user agent, without drachtio-srf and without the wire protocol.
import type { ClientId, CommandReply, Delivery, SipCommands } from "../../src/engine/events.ts";
import { startEngineWith, type ApplicationSide } from "../../src/engine/index.ts";
import { benchLimits, remains } from "./limits.ts";
import { setting, witness } from "./witness.ts";

const callee = `sip:callee@127.0.0.1:${setting("BENCH_CALLEE_PORT")}`;
const application: ClientId = 1;
const nothing = Buffer.alloc(0);
const headEnd = Buffer.from("\r\n\r\n");
const withBody = "Content-Type: application/sdp\r\n\r\n";

interface Call {
  /** Transaction of the caller's INVITE. */
  readonly uasTxn: string;
  uasDialog: string;
  uacDialog: string;
}

/** The commands and events of a call in the order drachtio-srf's createB2BUA has them. */
class NullApplication implements ApplicationSide {
  readonly #core: SipCommands;
  /** Calls by the transaction of their INVITE to the callee. */
  readonly #inviting = new Map<string, Call>();
  readonly #byDialog = new Map<string, Call>();
  #commands = 0;
  #replies: CommandReply | undefined;
  failed = 0;

  constructor(core: SipCommands) {
    this.#core = core;
  }

  get left(): number {
    return this.#inviting.size + this.#byDialog.size;
  }

  async start(): Promise<number> {
    return await Promise.resolve(0);
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }

  attach(): void {
    throw new Error("nobody connects here");
  }

  stats(): { clients: number; routes: number; outbound: number } {
    return { clients: 1, routes: 1, outbound: 0 };
  }

  heirOf(): ClientId {
    return application;
  }

  choose(): ClientId {
    return application;
  }

  isConnected(): boolean {
    return true;
  }

  deliver(_client: ClientId, delivery: Delivery): boolean {
    // Never from within the core: an application's answer comes in another turn, over its socket.
    queueMicrotask(() => {
      this.#receive(delivery);
    });
    return true;
  }

  reply(_client: ClientId, _requestId: string, reply: CommandReply): void {
    this.#replies = reply;
    if (reply.type === "refused") {
      this.failed += 1;
    }
  }

  #receive(delivery: Delivery): void {
    const { message, txnId, dialogId } = delivery;
    const method = message.toString("latin1", 0, message.indexOf(32));
    if (method === "SIP/2.0") {
      this.#response(message, txnId, dialogId ?? "");
    } else if (method === "INVITE") {
      const sent = this.#send(`INVITE ${callee} SIP/2.0\r\n${withBody}`, bodyOf(message), (command) => {
        this.#core.requestOutOfDialog(command, undefined);
      });
      if (sent?.type === "sent") {
        this.#inviting.set(sent.txnId, { uasTxn: txnId, uasDialog: "", uacDialog: "" });
      }
    } else if (method === "BYE") {
      this.#send("SIP/2.0 200 OK\r\n\r\n", nothing, (command) => {
        this.#core.respond(command, txnId);
      });
      const call = this.#byDialog.get(dialogId ?? "");
      if (call !== undefined) {
        const other = dialogId === call.uasDialog ? call.uacDialog : call.uasDialog;
        this.#byDialog.delete(call.uasDialog);
        this.#byDialog.delete(call.uacDialog);
        this.#send(`BYE ${callee} SIP/2.0\r\n\r\n`, nothing, (command) => {
          this.#core.requestInDialog(command, other);
        });
      }
    }
  }

  #response(message: Buffer, txnId: string, dialogId: string): void {
    const call = this.#inviting.get(txnId);
    if (call === undefined) {
      // The answer to our BYE.
      return;
    }
    const status = Number(message.toString("latin1", 8, 11));
    if (status >= 200) {
      this.#inviting.delete(txnId);
    }
    const answer = (text: string, body: Buffer): CommandReply | undefined =>
      this.#send(text, body, (command) => {
        this.#core.respond(command, call.uasTxn);
      });
    if (status < 200) {
      answer("SIP/2.0 180 Ringing\r\n\r\n", nothing);
    } else if (status < 300) {
      call.uacDialog = dialogId;
      this.#send(`ACK ${callee} SIP/2.0\r\n\r\n`, nothing, (command) => {
        this.#core.requestInDialog(command, dialogId);
      });
      const sent = answer(`SIP/2.0 200 OK\r\n${withBody}`, bodyOf(message));
      call.uasDialog = sent?.type === "sent" ? (sent.dialogId ?? "") : "";
      this.#byDialog.set(call.uasDialog, call);
      this.#byDialog.set(call.uacDialog, call);
    } else {
      this.failed += 1;
      answer(`SIP/2.0 ${status}\r\n\r\n`, nothing);
    }
  }

  /** Addresses need no look-up, so every command is answered before it returns. */
  #send(
    head: string,
    body: Buffer,
    run: (command: { client: ClientId; requestId: string; sip: Buffer }) => void,
  ): CommandReply | undefined {
    this.#commands += 1;
    this.#replies = undefined;
    const text = Buffer.from(head, "latin1");
    const sip = body.length === 0 ? text : Buffer.concat([text, body]);
    run({ client: application, requestId: String(this.#commands), sip });
    return this.#replies;
  }
}

function bodyOf(message: Buffer): Buffer {
  return message.subarray(message.indexOf(headEnd) + headEnd.length);
}

let app: NullApplication | undefined;
const engine = await startEngineWith(
  {
    listen: [{ protocol: "udp", address: "127.0.0.1", port: Number(setting("BENCH_SIP_PORT")) }],
    control: { address: "127.0.0.1", port: 0, secret: "unused" },
    sources: "any",
    limits: benchLimits,
  },
  (_parts, core) => (app = new NullApplication(core)),
);
witness(() => ({ failed: app?.failed ?? 0, "left.calls": app?.left ?? 0, ...remains(engine) }));
