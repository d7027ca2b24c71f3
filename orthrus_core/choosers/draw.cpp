// Draws the next token of some rows of logits, for CPUs: temperature, grammar mask, top-k, top-p, min-p, noise, argmax.
// The numbers are those of filters.py and noise.py, bit for bit; compile without contraction of * and +.
//
// A row's result depends on its own logits and parameters alone: sums of probabilities are sums of whole
// numbers, which have no order, and a row is one thread's.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "lanes.h"

namespace {

constexpr int CHUNK = 256;
constexpr int64_t SERIAL_SCORES = 1 << 14;  // fewer are not worth waking a thread
constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr float EXCLUDED = -std::numeric_limits<float>::infinity();
constexpr float ONE = 4398046511104.0f;  // 2^42: the weight of the likeliest token
constexpr float WEIGHTLESS = -30.0f;     // a token so far below the likeliest one has weight 0
constexpr int BUCKETS_PER_UNIT = 16, BUCKETS = 512;
constexpr float MARGIN = 1e-3f;          // relative, far above the rounding of `exp_of`

typedef int64_t Longs __attribute__((vector_size(LANES * 8), aligned(8)));

// splitmix64 and the noise as noise.py has them.
constexpr uint64_t STEP = 0x9E3779B97F4A7C15u;

inline uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

uint64_t key_of(uint64_t seed, uint64_t sample, uint64_t position) {
  uint64_t key = 0;
  for (const uint64_t part : {seed, sample, position}) key = mix((key ^ part) + STEP);
  return key;
}

double ln(double x) {
  constexpr int TERMS = 9;
  int exponent;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < 0.70710678118654757) mantissa *= 2, --exponent;
  const double s = (mantissa - 1) / (mantissa + 1), square = s * s;
  double series = 1.0 / (2 * TERMS - 1);
  for (int term = TERMS - 2; term >= 0; --term) series = series * square + 1.0 / (2 * term + 1);
  return series * s * 2 + exponent * 0.69314718055994529;
}

float gumbel(uint64_t bits) {
  const double uniform = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
  return -static_cast<float>(ln(-ln(uniform)));
}

// At least `gumbel(bits)`, at most 0.07 more where that is large, for a tenth of its cost.
// The uniform number is u <= 1 - rest / 2^24, and -ln(-ln u) <= -ln(1 - u) <= ln 2 (24 - log2 rest); log2 of
// 2^e (1 + m) is at least e + m, which is how a float's bits read as a whole number. rest = 0 gives 104.
inline float gumbel_bound(uint64_t bits) {
  const float rest = static_cast<float>(static_cast<int32_t>(~bits >> 40));
  int32_t read;
  std::memcpy(&read, &rest, sizeof read);
  return (151.001f - static_cast<float>(read) * 0x1p-23f) * 0.693148f;
}

struct Rule {
  float temperature;
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
  float min_p;    // 0: all
};

struct Candidate {
  float score;
  int32_t id;
  int64_t weight;  // of `weigh`
};

inline bool is_lower(Candidate a, Candidate b) { return a.score < b.score || (a.score == b.score && a.id < b.id); }

class Best {
 public:
  explicit Best(uint64_t key) : key_(key) {}

  int32_t id() const { return id_; }

  uint64_t bits_of(int32_t id) const { return mix(key_ + (static_cast<uint64_t>(id) + 1) * STEP); }

  bool may_win(float score, uint64_t bits) const { return score + gumbel_bound(bits) >= value_; }

  void offer(float score, int32_t id, uint64_t bits) {
    const float value = score + gumbel(bits);
    if (value > value_ || (value == value_ && id < id_)) value_ = value, id_ = id;
  }

 private:
  uint64_t key_;
  float value_ = EXCLUDED;
  int32_t id_ = 0;
};

// One row at a time; keeps its buffers for the next.
class Drawer {
 public:
  explicit Drawer(int64_t vocab_size)
      : size_(vocab_size),
        num_chunks_((vocab_size + CHUNK - 1) / CHUNK),
        scores_(num_chunks_ * CHUNK, EXCLUDED),
        tops_(num_chunks_ * LANES) {}

  template <class Number>
  int32_t draw(const Number* logits, const uint32_t* mask, const Rule& rule, uint64_t key, float* filtered) {
    read(logits, mask, rule.temperature);
    if (!std::isfinite(top_)) return broken(filtered);
    Best best(key);
    const bool has_top_k = rule.top_k > 0 && rule.top_k < size_;
    if (!has_top_k && rule.top_p >= 1 && rule.min_p <= 0) {
      draw_from_all(best);
      if (filtered) std::copy_n(scores_.begin(), size_, filtered);
      return best.id();
    }
    if (has_top_k) keep_top_k(rule.top_k);
    if (rule.top_p < 1) keep_top_p(rule.top_p, has_top_k);
    if (rule.min_p > 0) keep_min_p(rule.min_p, has_top_k || rule.top_p < 1);
    for (const Candidate one : kept_) {
      const uint64_t bits = best.bits_of(one.id);
      if (best.may_win(one.score, bits)) best.offer(one.score, one.id, bits);
    }
    if (filtered) {
      std::fill_n(filtered, size_, EXCLUDED);
      for (const Candidate one : kept_) filtered[one.id] = one.score;
    }
    return best.id();
  }

 private:
  // Fills `scores_`, of each chunk the largest score of every lane (`tops_`), and the largest of all (`top_`):
  // NaN if one is.
  template <class Number>
  void read(const Number* logits, const uint32_t* mask, float temperature) {
    const int64_t whole = size_ / LANES * LANES;
    Number tail[LANES] = {};
    std::copy(logits + whole, logits + size_, tail);
    const Ints places = lanes();
    Ints broken = {};
    Floats all_tops = all(EXCLUDED);
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      Floats tops = all(EXCLUDED);
      const int64_t end = std::min<int64_t>((chunk + 1) * CHUNK, size_);
      for (int64_t i = chunk * CHUNK; i < end; i += LANES) {
        Floats score = load(i < whole ? logits + i : tail) / temperature;
        if (mask) {
          const uint32_t allowed = mask[i / 32] >> (i % 32);
          score = ((Ints{} + static_cast<int32_t>(allowed)) >> places & 1) != 0 ? score : all(EXCLUDED);
        }
        if (i >= whole) score = places < static_cast<int32_t>(size_ - whole) ? score : all(EXCLUDED);
        broken |= score != score;
        *reinterpret_cast<Floats*>(&scores_[i]) = score;
        tops = larger(score, tops);
      }
      *reinterpret_cast<Floats*>(&tops_[chunk * LANES]) = tops;
      all_tops = larger(tops, all_tops);
    }
    top_ = all_tops[0];
    bool is_broken = false;
    for (int lane = 0; lane < LANES; ++lane) {
      top_ = std::max(top_, all_tops[lane]);
      is_broken |= broken[lane] != 0;
    }
    if (is_broken) top_ = std::numeric_limits<float>::quiet_NaN();
  }

  // A row of NaN or infinite logits, or one without a token: its log-probability says so, the choice nothing.
  int32_t broken(float* filtered) {
    if (filtered) std::copy_n(scores_.begin(), size_, filtered);
    return 0;
  }

  // Gives every candidate its weight and returns their sum.
  int64_t weigh() {
    int64_t total = 0;
    for (size_t first = 0; first < kept_.size(); first += LANES) {
      const int count = static_cast<int>(std::min<size_t>(LANES, kept_.size() - first));
      Floats scores = all(top_);
      for (int lane = 0; lane < count; ++lane) scores[lane] = kept_[first + lane].score;
      const Longs weights = __builtin_convertvector(exp_of(scores - top_) * ONE, Longs);
      for (int lane = 0; lane < count; ++lane) total += kept_[first + lane].weight = weights[lane];
    }
    return total;
  }

  // Takes all scores of which `score - base >= least`, false of -infinity.
  void gather(float base, float least) {
    size_t count = 0;
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      const float* tops = &tops_[chunk * LANES];
      float top = tops[0];
      for (int lane = 1; lane < LANES; ++lane) top = tops[lane] > top ? tops[lane] : top;
      if (!(top - base >= least)) continue;
      if (kept_.size() < count + CHUNK) kept_.resize(2 * count + CHUNK);
      const int64_t end = std::min<int64_t>((chunk + 1) * CHUNK, size_);
      for (int64_t i = chunk * CHUNK; i < end; ++i) {  // without a branch that nobody can foresee
        kept_[count] = {scores_[i], static_cast<int32_t>(i), 0};
        count += scores_[i] - base >= least;
      }
    }
    kept_.resize(count);
  }

  template <class Test>
  void keep_if(Test stays) {
    size_t count = 0;
    for (const Candidate one : kept_) {
      kept_[count] = one;
      count += stays(one);
    }
    kept_.resize(count);
  }

  // The k-th largest of the lanes' tops is at most the k-th largest score.
  void keep_top_k(int64_t k) {
    float least = LOWEST;
    if (k <= static_cast<int64_t>(tops_.size())) {
      spare_ = tops_;
      std::nth_element(spare_.begin(), spare_.begin() + (k - 1), spare_.end(), std::greater<float>());
      least = std::max(least, spare_[k - 1]);
    }
    gather(0, least);
    if (k >= static_cast<int64_t>(kept_.size())) return;
    std::nth_element(kept_.begin(), kept_.end() - k, kept_.end(), is_lower);
    const float kth = (kept_.end() - k)->score;
    keep_if([=](Candidate one) { return one.score >= kth; });
  }

  int64_t total_weight() const {
    Longs total = {};
    for (size_t i = 0; i < scores_.size(); i += LANES)
      total += __builtin_convertvector(exp_of(load(&scores_[i]) - top_) * ONE, Longs);
    int64_t sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += total[lane];
    return sum;
  }

  // Tokens of a weight up to cut / V go without a look at their order: together they weigh no more than the cut.
  void keep_top_p(double top_p, bool has_kept) {
    const int64_t total = has_kept ? weigh() : total_weight();
    const int64_t cut = static_cast<int64_t>(static_cast<double>(static_cast<float>(1 - top_p)) * total);
    if (!has_kept) {
      const float light = std::log(static_cast<float>(cut) / static_cast<float>(size_) / ONE) - MARGIN;
      gather(top_, std::max(light, WEIGHTLESS));
      drop_lowest(total - weigh(), cut);
    } else {
      drop_lowest(0, cut);
    }
  }

  // Drops candidates from the lowest on while all that is dropped weighs at most `cut`, but for the last one;
  // `below` is dropped already. Whole buckets of scores first, then inside the one where the cut lies.
  void drop_lowest(int64_t below, int64_t cut) {
    const float top = top_;
    const auto bucket_of = [=](Candidate one) {
      return static_cast<int>(std::min((top - one.score) * BUCKETS_PER_UNIT, BUCKETS - 1.0f));
    };
    int64_t sums[BUCKETS] = {};
    for (const Candidate one : kept_) sums[bucket_of(one)] += one.weight;
    int bucket = BUCKETS - 1;
    for (; bucket > 0 && below + sums[bucket] <= cut; --bucket) below += sums[bucket];
    edge_.clear();
    for (const Candidate one : kept_)
      if (bucket_of(one) == bucket) edge_.push_back(one);
    keep_if([=](Candidate one) { return bucket_of(one) < bucket; });
    auto first = edge_.begin(), last = edge_.end();
    while (last - first > 1) {
      const auto middle = first + (last - first) / 2;
      std::nth_element(first, middle, last, is_lower);
      int64_t half = 0;
      for (auto one = first; one != middle; ++one) half += one->weight;
      if (below + half <= cut) {
        below += half;
        first = middle;
      } else {
        last = middle;
      }
    }
    kept_.insert(kept_.end(), first, edge_.end());
  }

  void keep_min_p(float min_p, bool has_kept) {
    if (!has_kept) gather(top_, std::max(std::log(min_p) - MARGIN, LOWEST));
    keep_if([=](Candidate one) { return exp_of(all(one.score - top_))[0] >= min_p; });
  }

  // Computes the noise of those tokens alone whose bound reaches the best so far, the likeliest one's first.
  void draw_from_all(Best& best) {
    const int64_t group = std::find(tops_.begin(), tops_.end(), top_) - tops_.begin();
    const int64_t start = group / LANES * CHUNK;
    const int64_t likeliest = std::find(scores_.begin() + start, scores_.end(), top_) - scores_.begin();
    best.offer(top_, likeliest, best.bits_of(likeliest));
    for (int64_t first = 0; first < size_; first += CHUNK) {
      uint64_t bits[CHUNK];
      bool may_win[CHUNK];
      int hot = 0;
      for (int i = 0; i < CHUNK; ++i) bits[i] = best.bits_of(static_cast<int32_t>(first + i));
      for (int i = 0; i < CHUNK; ++i) hot |= may_win[i] = best.may_win(scores_[first + i], bits[i]);
      if (!hot) continue;
      for (int i = 0; i < CHUNK; ++i)
        if (may_win[i]) best.offer(scores_[first + i], static_cast<int32_t>(first + i), bits[i]);
    }
  }

  int64_t size_, num_chunks_;
  std::vector<float> scores_, tops_, spare_;
  std::vector<Candidate> kept_, edge_;
  float top_ = 0;
};

struct Rows {
  const void* logits;
  int64_t row_stride;
  int64_t vocab_size;
  bool is_half;
  const int64_t* positions;
  const int64_t* packed;  // (7, R), see RowSampling
  int64_t num_rows;
  const uint32_t* mask_bits;
  const int64_t* mask_lines;
  int64_t num_words;

  double number(int line, int64_t place) const {
    double value;
    std::memcpy(&value, packed + line * num_rows + place, sizeof value);
    return value;
  }

  int32_t draw(Drawer& drawer, int64_t place, float* filtered) const {
    const int64_t row = packed[place];
    const Rule rule{static_cast<float>(number(4, place)), packed[3 * num_rows + place], number(5, place),
                    static_cast<float>(number(6, place))};
    const uint64_t key = key_of(packed[num_rows + place], packed[2 * num_rows + place], positions[row] + 1);
    const bool is_masked = mask_lines && mask_lines[row] >= 0;
    const uint32_t* mask = is_masked ? mask_bits + mask_lines[row] * num_words : nullptr;
    const int64_t start = row * row_stride;
    if (is_half) return drawer.draw(static_cast<const uint16_t*>(logits) + start, mask, rule, key, filtered);
    return drawer.draw(static_cast<const float*>(logits) + start, mask, rule, key, filtered);
  }
};

}  // namespace

extern "C" void draw(
    const void* logits, int64_t row_stride, int64_t vocab_size, int is_half,  // (T, V), bfloat16 or float32
    const int64_t* positions,                                                 // (T,)
    const int64_t* packed, int64_t num_rows,                                  // (7, R)
    const uint32_t* mask_bits, const int64_t* mask_lines, int64_t num_words,  // (G, W), (T,) or null
    int num_threads,
    int64_t* ids,       // (R,)
    float* filtered) {  // (R, V) or null
  const Rows rows{logits, row_stride, vocab_size, is_half != 0, positions, packed, num_rows, mask_bits, mask_lines,
                  num_words};
#pragma omp parallel num_threads(num_threads) if (num_rows > 1 && num_rows * vocab_size > SERIAL_SCORES)
  {
    Drawer drawer(vocab_size);
#pragma omp for schedule(dynamic, 1)
    for (int64_t place = 0; place < num_rows; ++place)
      ids[place] = rows.draw(drawer, place, filtered ? filtered + place * vocab_size : nullptr);
  }
}

// The noise of one row's tokens, to be held against the slow form's.
extern "C" void noise(int64_t seed, int64_t sample, int64_t position, int64_t vocab_size, float* noise) {
  const Best row(key_of(seed, sample, position));
  for (int64_t id = 0; id < vocab_size; ++id) noise[id] = gumbel(row.bits_of(static_cast<int32_t>(id)));
}
