#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mpopt {

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over a counter: the same seed and index give the same value
/// on every machine.
inline std::uint64_t randomBits(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// About normal with mean 0 and deviation 1: the sum of four 16-bit uniforms. Predictable data (zeros) draws
/// less power and runs faster than what training computes with.
inline float randomNormal(std::uint64_t seed, std::uint64_t index) {
  const std::uint64_t bits = randomBits(seed, index);
  const auto sum = static_cast<double>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) +
                                       (bits >> 48));
  // The variance of one 16-bit uniform is 65536^2 / 12.
  return static_cast<float>((sum - 131070.0) / 37837.0);
}

/// A million values and a few (a prime, so that rows do not line up), then the same again: making a gigabyte
/// value by value would take longer than measuring with it.
constexpr std::size_t randomPeriod = 1048573;

template <class Element>
void repeat(Element* values, std::size_t count) {
  for (std::size_t at = randomPeriod; at < count; at += randomPeriod) {
    std::memcpy(values + at, values, std::min(randomPeriod, count - at) * sizeof(Element));
  }
}

inline void fillRandom(float* values, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = 0; i < std::min(count, randomPeriod); ++i) values[i] = randomNormal(seed, i);
  repeat(values, count);
}

/// bfloat16 nearest to a finite float, ties to even.
inline std::uint16_t toBf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float fromBf16(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void fillRandomBf16(std::uint16_t* values, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = 0; i < std::min(count, randomPeriod); ++i) values[i] = toBf16(randomNormal(seed, i));
  repeat(values, count);
}

}  // namespace mpopt
