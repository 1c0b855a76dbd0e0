#include "mpopt/isolate.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mpopt/profiler.h"
#include "mpopt/timing.h"

namespace mpopt {
namespace {

/// First byte of the child's message: what follows is the result or the sentence of an error.
constexpr char resultMark = '+';
constexpr char errorMark = '-';

[[noreturn]] void serve(const std::function<std::string()>& work, int pipe) {
  std::string message;
  try {
    message = resultMark + work();
  } catch (const std::exception& error) {
    message = errorMark + std::string(error.what());
  }
  for (std::size_t at = 0; at < message.size();) {
    const ssize_t written = write(pipe, message.data() + at, message.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    at += static_cast<std::size_t>(written);
  }
  // Without the exit handlers of a driver that may be broken.
  _exit(0);
}

/// Reads until the other end closes; false when the deadline passes first.
bool readAll(int pipe, std::string& message, double deadline) {
  for (;;) {
    const double left = deadline - monotonicClock().seconds();
    if (left <= 0) return false;
    pollfd entry{pipe, POLLIN, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min(left, 60.0) * 1000) + 1);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    char buffer[65536];
    const ssize_t received = read(pipe, buffer, sizeof buffer);
    if (received == 0) return true;
    if (received > 0) message.append(buffer, static_cast<std::size_t>(received));
  }
}

}  // namespace

std::string runIsolated(const std::function<std::string()>& work, double deadlineSeconds) {
  int ends[2];
  if (pipe(ends) != 0) throw BackendError(std::string("The system refused a pipe: ") + std::strerror(errno) + ".");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    serve(work, ends[1]);
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw BackendError(std::string("The system refused a process: ") + std::strerror(errno) + ".");
  }
  std::string message;
  const bool finished = readAll(ends[0], message, monotonicClock().seconds() + deadlineSeconds);
  close(ends[0]);
  if (!finished) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!finished) {
    throw BackendError("The profiler did not finish within " + std::to_string(static_cast<int>(deadlineSeconds)) +
                       " s and was stopped.");
  }
  if (WIFSIGNALED(status)) {
    throw BackendError(std::string("The profiler was ended by a signal (") + strsignal(WTERMSIG(status)) +
                       "), most likely by a broken driver.");
  }
  if (message.empty()) throw BackendError("The profiler ended without an answer.");
  if (message.front() == errorMark) throw BackendError(message.substr(1));
  return message.substr(1);
}

}  // namespace mpopt
