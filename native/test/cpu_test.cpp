#include <csignal>
#include <cstring>
#include <set>

#include <sys/wait.h>

#include "check.h"
#include "cpu/loopback.h"
#include "cpu/probe.h"
#include "cpu/team.h"
#include "random.h"

using namespace mpopt;
using namespace mpopt::cpu;

namespace {

void allKernelsAreRight() {
  const Processor processor = readProcessor();
  CHECK(gemmError(gemmPortable) < gemmTolerance);
  CHECK(streamError(streamPortable).empty());
#ifdef MPOPT_X86
  if (processor.avx2) {
    CHECK(gemmError(gemmAvx2) < gemmTolerance);
    CHECK(streamError(streamAvx2).empty());
  }
  if (processor.avx512) {
    CHECK(gemmError(gemmAvx512) < gemmTolerance);
    CHECK(streamError(streamAvx512).empty());
  }
  if (processor.avx512Bf16) CHECK(gemmError(gemmAvx512Bf16) < gemmTolerance);
#endif
}

void wrong(std::ptrdiff_t steps, const void* a, const void* b, float* c, std::ptrdiff_t ldc, bool accumulate) {
  gemmPortable.run(steps, a, b, c, ldc, accumulate);
  c[1] += 0.01f;
}

void aWrongKernelIsFound() {
  GemmKernel kernel = gemmPortable;
  kernel.run = wrong;
  CHECK(gemmError(kernel) > gemmTolerance);
  StreamKernels stream = streamPortable;
  stream.sum = [](const float*, std::size_t) { return 0.0f; };
  CHECK(!streamError(stream).empty());
}

void largeGemmCrossesEveryBlock() {
  // Blocks as measured with, and sizes past each of them, against sums in double precision at some places.
  const Processor processor = readProcessor();
  const GemmKernel& kernel = gemmPortable;
  const Blocking blocking = chooseBlocking(kernel, 16 * 1024, 64 * 1024, 128 * 1024);
  const std::size_t m = blocking.m + 3;
  const std::size_t n = blocking.n + 5;
  const std::size_t k = blocking.k + 7;
  Aligned<float> a(m * k), b(k * n), c(m * n);
  fillRandom(a.data(), a.size(), 1);
  fillRandom(b.data(), b.size(), 2);
  Gemm<float>(kernel, blocking).run(m, n, k, a.data(), b.data(), c.data());
  for (const std::size_t i : {std::size_t{0}, m / 2, m - 1}) {
    for (const std::size_t j : {std::size_t{0}, n / 2, n - 1}) {
      double exact = 0;
      for (std::size_t p = 0; p < k; ++p) exact += static_cast<double>(a[i * k + p]) * static_cast<double>(b[p * n + j]);
      NEAR(static_cast<double>(c[i * n + j]), exact, 1e-3);
    }
  }
}

void bf16RoundsToNearestEven() {
  CHECK(toBf16(1.0f) == 0x3F80);
  // 1 + 2^-8 lies halfway between 1 and the next; the even one is 1. 1 + 3 * 2^-8 goes up to 1 + 2^-6.
  CHECK(toBf16(1.00390625f) == 0x3F80);
  CHECK(toBf16(1.01171875f) == 0x3F82);
  CHECK(fromBf16(0xC000) == -2.0f);
}

void inputsAreNormal() {
  double sum = 0;
  double squares = 0;
  std::set<float> distinct;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const float value = randomNormal(7, i);
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
    distinct.insert(value);
  }
  NEAR(sum / 20000, 0, 0.03);
  NEAR(squares / 20000, 1, 0.03);
  CHECK(distinct.size() > 15000);
}

void teamRunsEveryMember() {
  const Processor processor = readProcessor();
  Team team(processor.cores, 3);
  std::vector<int> seen(3);
  for (int round = 0; round < 50; ++round) {
    NEAR(team.run([&](int member) {
      ++seen[static_cast<std::size_t>(member)];
      return static_cast<double>(member);
    }),
         1, 0);
  }
  for (const int count : seen) CHECK(count == 50);
  THROWN(BackendError, [&] {
    team.run([](int member) -> double {
      if (member == 1) throw BackendError("no");
      return 0;
    });
  });
}

void loopbackEchoes() {
  Loopback loopback(1 << 20, -1, 10);
  CHECK(loopback.pingPong(8, 10) > 0);
  CHECK(loopback.pingPong(1 << 20, 3) > 0);
  CHECK(loopback.pingPong(4097, 5) > 0);
  THROWN(BackendError, [&] { loopback.pingPong((1 << 20) + 1, 1); });
}

void loopbackHasADeadline() {
  Loopback loopback(1 << 16, -1, 0.3);
  kill(loopback.partner(), SIGSTOP);
  const std::string sentence = THROWN(BackendError, [&] { loopback.pingPong(1 << 16, 2); });
  CHECK(sentence.find("in time") != std::string::npos);
}

void profileIsComplete() {
  Request request;
  request.quick = true;
  request.devices = 2;
  request.budgetSeconds = 2;
  double last = -1;
  const Report report = makeBackend("cpu")->profile(request, [&](double fraction, const std::string& message) {
    CHECK(fraction >= last && fraction <= 1 && !message.empty());
    last = fraction;
  });
  CHECK(report.devices.size() == 2);
  std::set<std::string> operations;
  for (const Measurement& measurement : report.measurements) {
    operations.insert(measurement.operation);
    CHECK(measurement.seconds.median > 0 && measurement.seconds.p05 <= measurement.seconds.median);
  }
  for (const char* operation : {"gemm", "elementwise", "reduction", "copy", "launch", "link"}) {
    CHECK(operations.count(operation) == 1);
  }
}

void unknownBackend() {
  const std::string sentence = THROWN(BackendError, [] { makeBackend("rocm"); });
  CHECK(sentence == "Expected the backend cpu or cuda but found rocm.");
}

}  // namespace

int main() {
  return test::run({{"every kernel equals the triple loop", allKernelsAreRight},
                    {"a wrong kernel is found", aWrongKernelIsFound},
                    {"a GEMM past every block is right", largeGemmCrossesEveryBlock},
                    {"bf16 rounds to nearest, ties to even", bf16RoundsToNearestEven},
                    {"inputs are normal and not repeated", inputsAreNormal},
                    {"a team runs every member and passes errors on", teamRunsEveryMember},
                    {"the loopback partner echoes", loopbackEchoes},
                    {"a stopped partner ends in an error", loopbackHasADeadline},
                    {"a profile holds every operation", profileIsComplete},
                    {"an unknown backend is refused", unknownBackend}});
}
