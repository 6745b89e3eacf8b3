import { conformance } from "./suite.ts";

conformance("strict");
