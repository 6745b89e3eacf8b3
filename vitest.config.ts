import { defineConfig } from "vitest/config";

/** Real servers, but time is waited for and not measured in the sound: several files may run at once. */
const waiting = [
  "test/conformance/*.test.ts",
  "test/integration/{bot,engine,sip}-*.test.ts",
  "test/integration/job-{bad-input,destinations,identity,inbound,raw-redis,tls,truth-table}.test.ts",
];

/** A machine with other work may stand still for longer than the second that vitest would wait. */
const patientPolls = { poll: { timeout: 10_000, interval: 20 } };

// "pure" needs nothing but Node and runs in `npm run check`, "fuzz" (100,000 random cases) takes longer and runs in `npm test`;
// "wire" (SIP and Redis) and "sound" (rtpengine and phones too)
// start real servers and need the set-up of `npm test`.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "pure",
          include: ["test/{unit,scenario,property,torture}/**/*.test.ts"],
          // Property tests take seconds of pure computing, several times that on a loaded machine.
          testTimeout: 60_000,
          // Pure tests share no state, so the files of a worker share its modules: a third of the time.
          isolate: false,
          // On two cores vitest would take a single worker. More than the cores would make the tests of linear time noisy.
          maxWorkers: 2,
          expect: patientPolls,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "fuzz",
          include: ["test/fuzz/**/*.test.ts"],
          testTimeout: 120_000,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "wire",
          include: waiting,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          expect: patientPolls,
          // These wait for SIP timers most of the time, so several files may wait at once.
          maxWorkers: 6,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "sound",
          include: ["test/{integration,interop}/**/*.test.ts"],
          exclude: waiting,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Two cores run the servers and the phones too: files run one after another so that audio timing stays honest.
          fileParallelism: false,
          expect: patientPolls,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: "soak",
          include: ["test/soak/**/*.test.ts"],
          // The load itself takes two minutes; it wants the machine for itself.
          testTimeout: 400_000,
          fileParallelism: false,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});
