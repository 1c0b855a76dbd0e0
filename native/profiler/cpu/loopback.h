#pragma once

#include <cstdint>
#include <vector>

#include "mpopt/profiler.h"
#include "mpopt/timing.h"

namespace mpopt::cpu {

/// Two processes joined by one TCP connection over the loopback interface. The partner is a fork of this
/// process that only echoes, with one added to the first byte; every wait of both ends has a deadline, and the partner dies with its parent.
class Loopback {
 public:
  /// @param partnerCore core that the partner is bound to; negative leaves it free.
  /// Throws BackendError when the system refuses a socket or a process.
  Loopback(std::size_t largestBytes, int partnerCore, double deadlineSeconds);
  ~Loopback();
  Loopback(const Loopback&) = delete;
  Loopback& operator=(const Loopback&) = delete;

  /// Seconds of `rounds` times `bytes` there and back. Throws BackendError when the partner does not answer
  /// in time, and when the first and last bytes do not come back as they should. `bytes` is at least 2.
  double pingPong(std::size_t bytes, std::uint64_t rounds);

  int partner() const { return partner_; }

 private:
  std::vector<char> buffer_;
  double deadlineSeconds_;
  int socket_ = -1;
  int partner_ = -1;
};

/// Message sizes of the curve, ascending; the first is the one that gives the latency.
std::vector<std::size_t> loopbackSizes(bool quick);

}  // namespace mpopt::cpu
