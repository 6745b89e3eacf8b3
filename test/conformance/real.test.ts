import { conformance } from "./suite.ts";

conformance("real");
