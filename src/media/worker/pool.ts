import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import type { JobReply, JobResults, MediaJob } from "./job.ts";

export interface WorkerPoolOptions {
  /** Jobs at once. */
  readonly size: number;
  /** Jobs that may wait; what comes on top is refused with `overloaded`. */
  readonly mostWaiting: number;
  /** A job that takes longer is given up with `timeout`, and its worker with it. */
  readonly jobTimeoutMs: number;
  /** A worker without work ends after this time. */
  readonly idleMs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
}

interface PendingJob {
  readonly job: MediaJob;
  readonly resolve: (reply: JobReply) => void;
}

const megabytesPerWorker = 256;

/**
 * A worker that runs `entry`. From source (tsx, vitest) the file is TypeScript, which a worker of Node 20 cannot load by
 * itself and for which it ignores `--import`, so a line of code registers tsx in the worker first.
 */
function startWorker(): Worker {
  const options = { execArgv: [], resourceLimits: { maxOldGenerationSizeMb: megabytesPerWorker } };
  const source = import.meta.url.endsWith(".ts");
  const entry = new URL(source ? "./entry.ts" : "./entry.js", import.meta.url);
  if (!source) return new Worker(entry, options);
  const tsx = createRequire(import.meta.url)
    .resolve("tsx/esm/api")
    .replace(/\.cjs$/, ".mjs");
  const code = `import(${JSON.stringify(pathToFileURL(tsx).href)}).then(({ register }) => {
    register();
    return import(${JSON.stringify(entry.href)});
  });`;
  return new Worker(code, { ...options, eval: true });
}

class PoolWorker {
  readonly #options: WorkerPoolOptions;
  readonly #onFree: () => void;
  readonly #onEnd: (worker: PoolWorker) => void;
  readonly #worker: Worker;
  #current: { readonly pending: PendingJob; readonly timer: { cancel(): void } } | undefined;
  #idle: { cancel(): void } | undefined;
  #ended = false;

  constructor(options: WorkerPoolOptions, onFree: () => void, onEnd: (worker: PoolWorker) => void) {
    this.#options = options;
    this.#onFree = onFree;
    this.#onEnd = onEnd;
    this.#worker = startWorker();
    this.#worker.on("message", (reply: JobReply) => {
      this.#settle(reply);
      this.#idle = options.clock.after(options.idleMs, () => void this.end("idle"));
      this.#onFree();
    });
    this.#worker.on("error", (error) => void this.end(messageOf(error)));
    this.#worker.on("exit", () => void this.end("the worker has exited"));
  }

  get busy(): boolean {
    return this.#current !== undefined;
  }

  run(pending: PendingJob): void {
    this.#idle?.cancel();
    this.#idle = undefined;
    const { clock, jobTimeoutMs } = this.#options;
    const timer = clock.after(jobTimeoutMs, () => {
      this.#settle({ ok: false, code: "timeout", message: `the job took longer than ${jobTimeoutMs} ms` });
      void this.end("timeout");
    });
    this.#current = { pending, timer };
    this.#worker.postMessage(pending.job);
  }

  #settle(reply: JobReply): void {
    const current = this.#current;
    this.#current = undefined;
    current?.timer.cancel();
    current?.pending.resolve(reply);
  }

  async end(reason: string): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.#idle?.cancel();
    this.#settle({ ok: false, code: "worker_lost", message: reason });
    this.#onEnd(this);
    await this.#worker.terminate();
  }
}

/** Runs jobs in a few worker threads of low priority. Workers start when there is work and end when there is none. */
export class WorkerPool {
  readonly #options: WorkerPoolOptions;
  readonly #workers = new Set<PoolWorker>();
  readonly #waiting: PendingJob[] = [];
  #closed = false;

  constructor(options: WorkerPoolOptions) {
    this.#options = options;
  }

  /** Rejects with a MediaError: the job's own code, `overloaded`, `timeout`, `worker_lost` or `closed`. */
  async run<J extends MediaJob>(job: J): Promise<JobResults[J["type"]]> {
    if (this.#closed) throw new MediaError("closed", "the media side is closing");
    if (this.#waiting.length >= this.#options.mostWaiting) {
      throw new MediaError("overloaded", "too many jobs wait already");
    }
    const reply = await new Promise<JobReply>((resolve) => {
      this.#waiting.push({ job, resolve });
      this.#dispatch();
    });
    if (!reply.ok) throw new MediaError(reply.code, reply.message);
    return reply.result as JobResults[J["type"]];
  }

  #dispatch(): void {
    while (this.#waiting.length > 0 && !this.#closed) {
      const worker = [...this.#workers].find((candidate) => !candidate.busy) ?? this.#grow();
      const pending = worker === undefined ? undefined : this.#waiting.shift();
      if (worker === undefined || pending === undefined) return;
      worker.run(pending);
    }
  }

  #grow(): PoolWorker | undefined {
    if (this.#workers.size >= this.#options.size) return undefined;
    const worker = new PoolWorker(
      this.#options,
      () => this.#dispatch(),
      (ended) => {
        this.#workers.delete(ended);
        this.#dispatch();
      },
    );
    this.#workers.add(worker);
    return worker;
  }

  stats(): { readonly running: number; readonly waiting: number; readonly workers: number } {
    const running = [...this.#workers].filter((worker) => worker.busy).length;
    return { running, waiting: this.#waiting.length, workers: this.#workers.size };
  }

  /** Gives up what runs and what waits. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const pending of this.#waiting.splice(0)) {
      pending.resolve({ ok: false, code: "closed", message: "the media side is closing" });
    }
    await Promise.all([...this.#workers].map((worker) => worker.end("closed")));
  }
}
