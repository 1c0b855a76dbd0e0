#pragma once

#include <functional>
#include <string>

namespace mpopt {

/// Runs the work in a forked child and returns the text that it returned, so that a driver that crashes or hangs
/// takes only the child with it. Call it while the process has one thread.
/// Throws BackendError when the child throws (with its sentence), dies, or is not done within the deadline.
std::string runIsolated(const std::function<std::string()>& work, double deadlineSeconds);

}  // namespace mpopt
