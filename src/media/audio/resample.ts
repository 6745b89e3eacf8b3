/** Zero crossings of the filter on each side: 32 with this window keep aliases about 90 dB down. */
const zeroCrossings = 32;
const kaiserBeta = 9;
/** The middle of the transition band as a share of the lower of the two rates; 0.5 would be its Nyquist limit. */
const cutoff = 0.46;

/** The zeroth-order modified Bessel function of the first kind, by its power series. */
function besselI0(x: number): number {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/**
 * Changes the sample rate by any ratio of whole numbers with a windowed-sinc filter, piece by piece.
 * The output is aligned with the input: there is no delay to be taken off.
 */
export class Resampler {
  readonly #steps: number;
  readonly #stride: number;
  readonly #reach: number;
  readonly #filters: readonly Float32Array[];
  /** Input that is still needed; its first sample has the index `#origin` in the whole input. */
  #held: Float32Array;
  #origin: number;
  #output = 0;
  #received = 0;

  /** Rates are whole numbers of samples a second. */
  constructor(fromRate: number, toRate: number) {
    const divisor = greatestCommonDivisor(fromRate, toRate);
    this.#steps = toRate / divisor;
    this.#stride = fromRate / divisor;
    const bandwidth = Math.min(1, toRate / fromRate);
    this.#reach = Math.ceil(zeroCrossings / bandwidth);
    this.#filters = Array.from({ length: this.#steps }, (_, step) =>
      filterFor(step / this.#steps, this.#reach, bandwidth),
    );
    this.#held = new Float32Array(this.#reach);
    this.#origin = -this.#reach;
  }

  /** The output that the input so far allows; its length differs from call to call. */
  push(samples: Float32Array): Float32Array {
    this.#received += samples.length;
    return this.#advance(samples, this.#received - this.#reach);
  }

  /** The rest, after the last input. */
  flush(): Float32Array {
    return this.#advance(new Float32Array(this.#reach + 1), this.#received);
  }

  /** Makes every output sample whose place in the input lies before `end`. */
  #advance(samples: Float32Array, end: number): Float32Array {
    const joined = new Float32Array(this.#held.length + samples.length);
    joined.set(this.#held);
    joined.set(samples, this.#held.length);
    const until = Math.max(this.#output, Math.ceil((end * this.#steps) / this.#stride));
    const out = new Float32Array(until - this.#output);
    const taps = this.#reach * 2;
    for (let index = 0; index < out.length; index += 1) {
      const place = (this.#output + index) * this.#stride;
      const whole = Math.floor(place / this.#steps);
      const filter = this.#filters[place - whole * this.#steps];
      if (filter === undefined) break;
      const first = whole - this.#reach + 1 - this.#origin;
      let sum = 0;
      for (let tap = 0; tap < taps; tap += 1) sum += (filter[tap] ?? 0) * (joined[first + tap] ?? 0);
      out[index] = sum;
    }
    this.#output = until;
    const next = Math.floor((until * this.#stride) / this.#steps) - this.#reach + 1;
    const drop = Math.max(0, Math.min(joined.length, next - this.#origin));
    this.#held = joined.slice(drop);
    this.#origin += drop;
    return out;
  }
}

/** The filter that computes the sample `fraction` of the way from one input sample to the next. */
function filterFor(fraction: number, reach: number, bandwidth: number): Float32Array {
  const filter = new Float32Array(reach * 2);
  const scale = besselI0(kaiserBeta);
  let sum = 0;
  for (let tap = 0; tap < filter.length; tap += 1) {
    const distance = tap - reach + 1 - fraction;
    const edge = distance / reach;
    if (Math.abs(edge) >= 1) continue;
    const window = besselI0(kaiserBeta * Math.sqrt(1 - edge * edge)) / scale;
    const angle = 2 * Math.PI * cutoff * bandwidth * distance;
    const sinc = Math.abs(angle) < 1e-9 ? 1 : Math.sin(angle) / angle;
    filter[tap] = window * sinc;
    sum += window * sinc;
  }
  // Each filter passes a constant unchanged, so that no phase is louder than its neighbours.
  for (let tap = 0; tap < filter.length; tap += 1) filter[tap] = (filter[tap] ?? 0) / sum;
  return filter;
}
