import type { z } from "zod";

type Schema = z.core.$ZodType;

/** The schema below defaults, optionality and the alternatives of a union that `raw` does not choose. */
export function bareSchema(schema: Schema, raw: unknown): Schema {
  const { def } = schema._zod;
  switch (def.type) {
    case "optional":
    case "default":
    case "prefault":
    case "nullable":
    case "readonly":
      return bareSchema((def as z.core.$ZodOptionalDef).innerType, raw);
    case "pipe":
      return bareSchema((def as z.core.$ZodPipeDef).in, raw);
    case "union": {
      const { options, discriminator } = def as z.core.$ZodUnionDef & { discriminator?: string };
      if (discriminator === undefined) {
        return schema;
      }
      const chosen = isRecord(raw) ? raw[discriminator] : undefined;
      const match = options.find((option) => literalOf(shapeOf(option)?.[discriminator]) === chosen);
      return match ?? schema;
    }
    default:
      return schema;
  }
}

/** The schema of what stands at `path`, undefined where the configuration has no such place. */
export function schemaAt(root: Schema, path: readonly PropertyKey[], raw: unknown): Schema | undefined {
  let schema: Schema = bareSchema(root, raw);
  let value = raw;
  for (const part of path) {
    value = isRecord(value) || Array.isArray(value) ? (value as Record<PropertyKey, unknown>)[part] : undefined;
    const next = typeof part === "number" ? elementOf(schema) : shapeOf(schema)?.[String(part)];
    if (next === undefined) {
      return undefined;
    }
    schema = bareSchema(next, value);
  }
  return schema;
}

/** Keys an object may have here; for a union those of all its alternatives; empty for anything but an object. */
export function keysOf(schema: Schema): readonly string[] {
  const { def } = schema._zod;
  if (def.type === "union") {
    return [
      ...new Set((def as z.core.$ZodUnionDef).options.flatMap((option) => keysOf(bareSchema(option, undefined)))),
    ];
  }
  return Object.keys(shapeOf(schema) ?? {});
}

export function kindOf(schema: Schema): z.core.$ZodTypeDef["type"] {
  return schema._zod.def.type;
}

/** The known name that a misspelt one most likely means, undefined when none is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const wanted = plain(name);
  let best: { readonly name: string; readonly distance: number } | undefined;
  for (const candidate of known) {
    const distance = editDistance(wanted, plain(candidate));
    if (distance <= Math.max(2, Math.floor(candidate.length / 3)) && (best === undefined || distance < best.distance)) {
      best = { name: candidate, distance };
    }
  }
  return best?.name;
}

/** Names compare without case, dashes and underscores: `cache_max_mb` is `cacheMaxMb`. */
export function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[_-]/g, "");
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shapeOf(schema: Schema | undefined): Readonly<Record<string, Schema>> | undefined {
  return schema?._zod.def.type === "object" ? (schema._zod.def as z.core.$ZodObjectDef).shape : undefined;
}

function elementOf(schema: Schema): Schema | undefined {
  return schema._zod.def.type === "array" ? (schema._zod.def as z.core.$ZodArrayDef).element : undefined;
}

function literalOf(schema: Schema | undefined): unknown {
  return schema?._zod.def.type === "literal" ? (schema._zod.def as z.core.$ZodLiteralDef<string>).values[0] : undefined;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
