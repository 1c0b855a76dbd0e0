#include "team.h"

#include "processor.h"

namespace mpopt::cpu {

Team::Team(const std::vector<int>& cores, int members)
    : results_(static_cast<std::size_t>(members)), errors_(static_cast<std::size_t>(members)) {
  threads_.reserve(static_cast<std::size_t>(members));
  for (int index = 0; index < members; ++index) {
    const int core = cores[static_cast<std::size_t>(index) % cores.size()];
    threads_.emplace_back([this, index, core] { member(index, core); });
  }
}

Team::~Team() {
  stop_ = true;
  ++round_;
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

double Team::run(const std::function<double(int)>& job) {
  job_ = &job;
  ready_ = 0;
  finished_ = 0;
  for (auto& error : errors_) error = nullptr;
  ++round_;
  round_.notify_all();
  for (int done = finished_; done < size(); done = finished_) finished_.wait(done);
  double sum = 0;
  for (std::size_t index = 0; index < threads_.size(); ++index) {
    if (errors_[index]) std::rethrow_exception(errors_[index]);
    sum += results_[index];
  }
  return sum / size();
}

void Team::member(int index, int core) {
  if (!pinToCore(core)) pinned_ = false;
  const auto position = static_cast<std::size_t>(index);
  const int members = static_cast<int>(results_.size());
  for (std::uint32_t seen = 0;;) {
    round_.wait(seen);
    if (stop_) return;
    seen = round_;
    // Everyone is awake before anyone starts. Waiting gives the core away where members share one.
    ++ready_;
    while (ready_ < members) std::this_thread::yield();
    try {
      results_[position] = (*job_)(index);
    } catch (...) {
      errors_[position] = std::current_exception();
    }
    ++finished_;
    finished_.notify_all();
  }
}

}  // namespace mpopt::cpu
