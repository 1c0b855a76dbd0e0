#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace mpopt::cpu {

/// One thread a core, each bound to its own, that start the same job at the same moment. More members than
/// cores share them in turn, as more processes than cores would.
class Team {
 public:
  Team(const std::vector<int>& cores, int members);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()); }
  bool pinned() const { return pinned_; }

  /// Runs the job on every member and waits. A member times its own work; the mean of what they return is
  /// the answer. Rethrows the first exception of a member.
  double run(const std::function<double(int member)>& job);

 private:
  void member(int index, int core);

  std::vector<std::thread> threads_;
  const std::function<double(int)>* job_ = nullptr;
  std::vector<double> results_;
  std::vector<std::exception_ptr> errors_;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<int> ready_{0};
  std::atomic<int> finished_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> pinned_{true};
};

}  // namespace mpopt::cpu
