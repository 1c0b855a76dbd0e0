import { z } from "zod";

/** Where a number comes from. Every estimate carries it up to the user's screen. */
export const provenanceSchema = z.enum(["measured", "fitted", "assumed"]);
export type Provenance = z.infer<typeof provenanceSchema>;

/** A number with its origin. The unit stands in the name of the field that holds it. */
export const quantitySchema = z.object({
  value: z.number().nonnegative(),
  provenance: provenanceSchema,
  /** A data sheet, a paper, a file, or the probe that measured it. */
  source: z.string(),
});
export type Quantity = z.infer<typeof quantitySchema>;

const order: readonly Provenance[] = ["measured", "fitted", "assumed"];

/** The weakest of several provenances: a result is only as good as its worst input. */
export function weakestProvenance(all: Iterable<Provenance>): Provenance {
  let weakest = 0;
  for (const provenance of all) weakest = Math.max(weakest, order.indexOf(provenance));
  return order[weakest]!;
}

/** Element types that a tensor can have. */
export const dtypeSchema = z.enum([
  "f64",
  "f32",
  "tf32",
  "bf16",
  "f16",
  "fp8",
  "fp4",
  "i64",
  "i32",
  "i8",
  "bool",
]);
export type Dtype = z.infer<typeof dtypeSchema>;

/** Bytes that one stored element takes. TF32 is stored as 32 bits; scales of fp8 and fp4 blocks are left out. */
export const bytesPerElement: Readonly<Record<Dtype, number>> = {
  f64: 8,
  f32: 4,
  tf32: 4,
  bf16: 2,
  f16: 2,
  fp8: 1,
  fp4: 0.5,
  i64: 8,
  i32: 4,
  i8: 1,
  bool: 1,
};
