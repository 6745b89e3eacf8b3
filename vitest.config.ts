import { defineConfig } from "vitest/config";

// "pure" needs nothing but Node and runs in `npm run check`; "real" starts real servers and needs `npm test`'s set-up.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "pure",
          include: ["test/{unit,scenario,property,torture}/**/*.test.ts"],
          testTimeout: 20_000,
          // Pure tests share no state, so the files of a worker share its modules: a third of the time.
          isolate: false,
          // On two cores vitest would take a single worker. More than the cores would make the tests of linear time noisy.
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "real",
          include: ["test/{integration,interop}/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Two cores run the servers and the phones too: files run one after another so that audio timing stays honest.
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
