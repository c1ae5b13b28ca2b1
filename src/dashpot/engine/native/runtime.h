// What every generated kernel stands on: conversions, small functions with torch's treatment of NaN, and the driver
// that runs a kernel over a table of tensors. The generated part follows: one struct for each variant of the recipe.
// The C++ headers for mathematics and containers would take a third of the time to compile a kernel; compilers know the
// functions without them.
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// Sums run over chunks of fixed size and add up in order, so that results do not depend on the number of threads.
constexpr int64_t CHUNK = 16384;
constexpr int64_t LARGE = 4 * CHUNK;    // from here on all threads share one tensor
constexpr int64_t WORTHWHILE = 32768;   // below it waking the threads costs more than they save

enum class bf16 : uint16_t {};  // no struct: gcc does not vectorise loads of structs

// Two neighbouring bfloat16 numbers, aligned as one.
typedef uint32_t word __attribute__((aligned(2), may_alias));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
inline bf16 even(uint32_t x) { return static_cast<bf16>(x); }
inline bf16 odd(uint32_t x) { return static_cast<bf16>(x >> 16); }
inline uint32_t both(bf16 even, bf16 odd) { return static_cast<uint32_t>(odd) << 16 | static_cast<uint32_t>(even); }
#else
inline bf16 even(uint32_t x) { return static_cast<bf16>(x >> 16); }
inline bf16 odd(uint32_t x) { return static_cast<bf16>(x); }
inline uint32_t both(bf16 even, bf16 odd) { return static_cast<uint32_t>(even) << 16 | static_cast<uint32_t>(odd); }
#endif

template <class To, class From> inline To bitcast(From x) {
  static_assert(sizeof(To) == sizeof(From), "a bitcast keeps the size");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

template <class To, class From> inline To cast(From x) { return static_cast<To>(x); }
template <> inline float cast<float, bf16>(bf16 x) { return bitcast<float>(static_cast<uint32_t>(x) << 16); }
template <> inline double cast<double, bf16>(bf16 x) { return cast<float>(x); }

// Rounding to bfloat16, which `dashpot/engine/rounding.py` explains: the upper half of the bits and an addend below
// 2^16. A NaN has no addend, as the carry could turn it into zero; one that no arithmetic has made may be a signalling
// one, and becomes a quiet one, which has a bit in the upper half.
inline bf16 upper(uint32_t bits) { return static_cast<bf16>(bits >> 16); }
inline uint32_t carried(float x, uint32_t addend) { return bitcast<uint32_t>(x) + (x == x ? addend : 0); }
inline uint32_t to_even(float x) { return bitcast<uint32_t>(x) & 0x10000u ? 0x8000u : 0x7fffu; }
inline float quiet(float x) { return bitcast<float>(bitcast<uint32_t>(x) | (x == x ? 0 : 0x400000u)); }
inline bf16 stochastic(float x, int32_t noise) { return upper(carried(x, static_cast<uint32_t>(noise))); }
inline bf16 high(float x) { return upper(carried(x, to_even(x))); }
inline bf16 low(float x) {
  const float remainder = x - bitcast<float>(carried(x, to_even(x)) & 0xffff0000u);
  return upper(remainder - remainder == 0 ? bitcast<uint32_t>(remainder) + 0x8000u : 0);
}
template <> inline bf16 cast<bf16, float>(float x) { return high(quiet(x)); }
template <> inline bf16 cast<bf16, double>(double x) { return cast<bf16>(static_cast<float>(x)); }
template <> inline int32_t cast<int32_t, double>(double x) { return static_cast<int32_t>(static_cast<int64_t>(x)); }

namespace maths {
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline bool signbit(float x) { return __builtin_signbitf(x); }
inline bool signbit(double x) { return __builtin_signbit(x); }
#define FUNCTION(name)                                     \
  inline float name(float x) { return __builtin_##name##f(x); } \
  inline double name(double x) { return __builtin_##name(x); }
FUNCTION(sqrt) FUNCTION(exp) FUNCTION(exp2) FUNCTION(expm1) FUNCTION(log) FUNCTION(log10) FUNCTION(log1p) FUNCTION(log2)
FUNCTION(sin) FUNCTION(cos) FUNCTION(tan) FUNCTION(asin) FUNCTION(acos) FUNCTION(atan)
FUNCTION(sinh) FUNCTION(cosh) FUNCTION(tanh) FUNCTION(asinh) FUNCTION(acosh) FUNCTION(atanh)
FUNCTION(erf) FUNCTION(erfc) FUNCTION(floor) FUNCTION(ceil) FUNCTION(trunc) FUNCTION(nearbyint)
#undef FUNCTION
#define FUNCTION(name)                                                       \
  inline float name(float x, float y) { return __builtin_##name##f(x, y); } \
  inline double name(double x, double y) { return __builtin_##name(x, y); }
FUNCTION(pow) FUNCTION(atan2) FUNCTION(hypot) FUNCTION(copysign) FUNCTION(fmod) FUNCTION(fmax) FUNCTION(fmin)
#undef FUNCTION
}  // namespace maths

// Written so that each is one instruction of a vector unit, or that and a blend: `b < a ? b : a` is `a` where either is
// NaN, as the instruction has it.
template <class T> inline T larger(T a, T b) { return a < b ? b : a; }
template <class T> inline T smaller(T a, T b) { return b < a ? b : a; }
template <class T> inline T maximum(T a, T b) { return b != b ? b : larger(a, b); }
template <class T> inline T minimum(T a, T b) { return b != b ? b : smaller(a, b); }
template <class T> inline T sign(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0); }
// 1 to multiply with, or NaN where a bound is NaN. The compiler computes it once, outside the loop.
template <class T> inline T unless_nan(T bound) { return bound == bound ? T(1) : bound; }
template <class T> inline T lerp(T a, T b, T w) { return w < T(0.5) ? a + w * (b - a) : b - (b - a) * (T(1) - w); }
inline int32_t wrap(uint32_t x) { return static_cast<int32_t>(x); }

constexpr int32_t BLOCK = 512;

// Whether a gradient enters as it is, and what a block of it becomes otherwise.
inline bool as_it_is(double scale, double limit) { return scale == 1 && limit == __builtin_inf(); }
template <class T> inline T limited(T g, T scale, T limit) { return smaller(larger(g * scale, -limit), limit); }
template <class T>
__attribute__((noinline)) const T* prepared(T* __restrict__ out, const T* g, int32_t count, double scale, double limit) {
  const T factor = cast<T>(scale), most = cast<T>(limit);
#pragma omp simd
  for (int32_t i = 0; i < count; i++) out[i] = limited(g[i], factor, most);
  return out;
}

// `dither` of `dashpot/engine/rounding.py` for the elements of one block, or fewer, from number `first` on. With
// `APART` 2 the bits of the even elements come first, then those of the odd ones.
constexpr int32_t QUARTER = BLOCK / 4;
template <int32_t APART>
__attribute__((noinline)) void dither(uint32_t* __restrict__ out, int32_t first, int32_t count, int32_t word, int32_t key) {
  const int32_t hashes = (smaller(count, QUARTER) + APART - 1) / APART;
  for (int32_t part = 0; part < APART; part++, out += BLOCK / APART) {
    const uint32_t start = ((first >> 2) + part) * 0x9e3779b9u + word;
#pragma omp simd
    for (int32_t i = 0; i < hashes; i++) {
      uint32_t x = start + i * (APART * 0x9e3779b9u);
      x = (x ^ (x >> 16)) * 0x7feb352du;
      x ^= (x >> 15) ^ key;
      const uint32_t a = x * 0x846ca68bu, b = x * 0xc763a25du, c = x * 0x0a5a9e2fu, d = x * 0x4d519a01u;
      out[i] = a ^ (a >> 16);
      out[i + QUARTER / APART] = b ^ (b >> 16);
      out[i + 2 * QUARTER / APART] = c ^ (c >> 16);
      out[i + 3 * QUARTER / APART] = d ^ (d >> 16);
    }
  }
}

struct Numbers {
  double* const data;
  explicit Numbers(int64_t count) : data(new double[count]) {}
  Numbers(const Numbers&) = delete;
  ~Numbers() { delete[] data; }
};

inline int64_t chunks_of(const int64_t* row) { return (row[0] + CHUNK - 1) / CHUNK; }

inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int thread_count() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

int64_t total_elements(int64_t rows, const int64_t* table, int64_t columns) {
  int64_t total = 0;
  for (int64_t r = 0; r < rows; r++) total += table[r * columns];
  return total;
}

// Calls body(row, lo, hi, chunk number) for this thread's share of the chunks of all rows together.
template <class Body> void my_chunks(int64_t rows, const int64_t* table, int64_t columns, Body body) {
  int64_t all = 0;
  for (int64_t r = 0; r < rows; r++) all += chunks_of(table + r * columns);
  const int64_t first = all * thread_number() / thread_count(), last = all * (thread_number() + 1) / thread_count();
  for (int64_t r = 0, passed = 0; r < rows && passed < last; r++) {
    const int64_t* row = table + r * columns;
    const int64_t count = chunks_of(row);
    const int64_t from = larger(first, passed), to = smaller(last, passed + count);
    for (int64_t c = from; c < to; c++)
      body(row, (c - passed) * CHUNK, smaller(row[0], (c - passed + 1) * CHUNK), c);
    passed += count;
  }
}

// No tensor-wide sums: one pass over the chunks of all tensors, then what is kept once per tensor.
template <class K> void drive_flat(int64_t rows, const int64_t* table, const double* scalars, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    my_chunks(rows, table, K::COLUMNS, [&](const int64_t* row, int64_t lo, int64_t hi, int64_t) {
      K::phase(0, row, scalars + row[1] * K::SCALARS, nullptr, lo, hi, nullptr);
    });
  }
  for (int64_t r = 0; r < rows; r++) {
    const int64_t* row = table + r * K::COLUMNS;
    K::finish(row, scalars + row[1] * K::SCALARS, nullptr);
  }
}

template <class K> void add_up(int phase, int64_t chunks, const double* partial, double* sums) {
  for (int s = 0; s < K::SUMS; s++) {
    if (K::sum_phase(s) != phase) continue;
    double total = 0;
    for (int64_t c = 0; c < chunks; c++) total += partial[c * K::SUMS + s];
    sums[s] = total;
  }
}

template <class K>
void run_phase(int phase, const int64_t* row, const double* c, const double* sums, int64_t from, int64_t to,
               double* partial) {
  for (int64_t k = from; k < to; k++)
    K::phase(phase, row, c, sums, k * CHUNK, smaller(row[0], (k + 1) * CHUNK), partial + k * K::SUMS);
}

template <class K> void alone(const int64_t* row, const double* c, double* partial) {
  double sums[K::SUMS + 1];
  for (int phase = 0; phase < K::PHASES; phase++) {
    run_phase<K>(phase, row, c, sums, 0, chunks_of(row), partial);
    add_up<K>(phase, chunks_of(row), partial, sums);
  }
  K::finish(row, c, sums);
}

// All threads on one tensor, so that it is still in the cache when the next phase reads it again.
template <class K> void together(const int64_t* row, const double* c, double* partial) {
  double sums[K::SUMS + 1];
  const int64_t chunks = chunks_of(row), me = thread_number(), all = thread_count();
  for (int phase = 0; phase < K::PHASES; phase++) {
    run_phase<K>(phase, row, c, sums, chunks * me / all, chunks * (me + 1) / all, partial);
#pragma omp barrier
    add_up<K>(phase, chunks, partial, sums);
  }
#pragma omp barrier
  if (me == 0) K::finish(row, c, sums);
}

template <class K> void drive_sums(int64_t rows, const int64_t* table, const double* scalars, int threads) {
  int64_t most = 1;
  for (int64_t r = 0; r < rows; r++) most = larger(most, chunks_of(table + r * K::COLUMNS));
  const Numbers shared(most * K::SUMS);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    double mine[(LARGE / CHUNK + 1) * K::SUMS + 1];
    for (int64_t r = 0; r < rows; r++) {
      const int64_t* row = table + r * K::COLUMNS;
      if (row[0] >= LARGE) together<K>(row, scalars + row[1] * K::SCALARS, shared.data);
    }
#pragma omp for schedule(dynamic, 4)
    for (int64_t r = 0; r < rows; r++) {
      const int64_t* row = table + r * K::COLUMNS;
      if (row[0] < LARGE) alone<K>(row, scalars + row[1] * K::SCALARS, mine);
    }
  }
}

template <class K> void drive(int64_t rows, const int64_t* table, const double* scalars, int64_t threads) {
  const bool few = total_elements(rows, table, K::COLUMNS) < WORTHWHILE;
  if constexpr (K::SUMS == 0)
    drive_flat<K>(rows, table, scalars, few ? 1 : static_cast<int>(threads));
  else
    drive_sums<K>(rows, table, scalars, few ? 1 : static_cast<int>(threads));
}

// Adds the squares of a stretch of gradients to `squares`, and 0 to `broken`, or NaN where one is not finite.
template <class Gradient> void add_squares(const Gradient* g, int32_t count, double& squares, double& broken) {
  double sum = 0, zero = 0;
#pragma omp simd reduction(+ : sum, zero)
  for (int32_t i = 0; i < count; i++) {
    const double x = cast<double>(g[i]);
    sum += x * x;
    zero += x * 0;
  }
  squares += sum;
  broken += zero;
}

// The sum of the squares of `times` * `LANES` gradients in float: a few additions in each of the lanes, of which there
// are enough that none waits for the addition before it.
constexpr int32_t LANES = 64, TIMES = 16;
template <class Gradient> inline float block_squares(const Gradient* g, int32_t times) {
  float lane[LANES] = {}, sum = 0;
  for (int32_t i = 0; i < times; i++, g += LANES) {
#pragma omp simd
    for (int32_t k = 0; k < LANES; k++) {
      const float x = cast<float>(g[k]);
      lane[k] += x * x;
    }
  }
#pragma omp simd reduction(+ : sum)
  for (int32_t k = 0; k < LANES; k++) sum += lane[k];
  return sum;
}

// Squares of a block are added in float where they stay far from float's limits, which an infinity or NaN does not.
template <class Compute, class Gradient>
void measure_chunk(const Gradient* g, int64_t count, double& squares, double& broken) {
  if constexpr (sizeof(Compute) == 4) {
    for (int32_t times; count >= LANES; g += times * LANES, count -= times * LANES) {
      times = static_cast<int32_t>(smaller<int64_t>(TIMES, count / LANES));
      const float sum = block_squares(g, times);
      if (sum > 1e-25f && sum < 1e35f)
        squares += sum;
      else
        add_squares(g, times * LANES, squares, broken);
    }
  }
  add_squares(g, static_cast<int32_t>(count), squares, broken);
}

// out[0]: the sum of squares of all gradients; out[1]: 0, or NaN where any element is not finite.
template <class Gradient, class Compute>
void measure(int64_t rows, const int64_t* table, int64_t columns, double* out, int64_t threads) {
  int64_t all = 0;
  for (int64_t r = 0; r < rows; r++) all += chunks_of(table + r * columns);
  const Numbers numbers(2 * all);
  double* partial = numbers.data;
  const bool few = total_elements(rows, table, columns) < WORTHWHILE;
#pragma omp parallel num_threads(few ? 1 : static_cast<int>(threads)) if (!few && threads > 1)
  {
    my_chunks(rows, table, columns, [&](const int64_t* row, int64_t lo, int64_t hi, int64_t chunk) {
      double squares = 0, broken = 0;
      measure_chunk<Compute>(reinterpret_cast<const Gradient*>(row[4]) + lo, hi - lo, squares, broken);
      partial[2 * chunk] = squares;
      partial[2 * chunk + 1] = broken;
    });
  }
  out[0] = out[1] = 0;
  for (int64_t c = 0; c < all; c++) out[0] += partial[2 * c], out[1] += partial[2 * c + 1];
}

}  // namespace
