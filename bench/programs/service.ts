// Patchbay itself: compiled with the other programs, because a loader that rewrites sources would be measured with it.
import "../../src/main.ts";
