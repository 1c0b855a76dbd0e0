/** A flag of Megatron-LM with its values. */
export type Flag = readonly [name: string, ...values: string[]];
