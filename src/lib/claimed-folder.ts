import { stat } from "node:fs/promises";
import { createServer } from "node:net";
import { platform } from "node:os";

/**
 * Keeps a folder for this process until it is released, or until the process has ended in whatever way: the kernel frees
 * what a killed process has claimed, so that no stale lock is ever in the way of the next one. Rejects when another process
 * has the folder, and when there is no such folder. Processes on other machines, and in containers with a network of their
 * own, are not kept out, and nobody is where there is no Linux.
 */
export async function claimFolder(folder: string): Promise<{ release(): Promise<void> }> {
  const { dev, ino } = await stat(folder, { bigint: true });
  if (platform() !== "linux") {
    return { release: async () => undefined };
  }
  // A socket in the abstract namespace: a name alone, bound by one process at a time. The folder may have several paths,
  // as in containers, but has one number.
  const claim = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    claim.once("error", reject);
    claim.listen(`\0patchbay-folder-${dev}-${ino}`, resolve);
  }).catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "EADDRINUSE") {
      throw new Error(`another instance has ${folder}: each needs a folder of its own`, { cause: error });
    }
    throw error;
  });
  claim.on("error", () => undefined);
  // It is not a reason to go on running.
  claim.unref();
  return {
    release: () =>
      new Promise((resolve) => {
        claim.close(() => {
          resolve();
        });
      }),
  };
}
