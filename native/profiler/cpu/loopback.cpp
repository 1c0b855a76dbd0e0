#include "loopback.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "processor.h"

namespace mpopt::cpu {
namespace {

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

// Everything below also runs in the forked partner, where only system calls are safe: no allocation.

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

bool waitFor(int socket, short events, double deadline) {
  for (;;) {
    const double left = deadline - now();
    if (left <= 0) return false;
    pollfd entry{socket, events, 0};
    const int answer = poll(&entry, 1, static_cast<int>(std::min(left, 60.0) * 1000) + 1);
    if (answer > 0) return true;
    if (answer < 0 && errno != EINTR) return false;
  }
}

/// Tries the call first and polls only when it would block: a poll a message costs more than the message.
bool sendAll(int socket, const char* data, std::size_t bytes, double deadline) {
  while (bytes > 0) {
    const ssize_t sent = send(socket, data, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      data += sent;
      bytes -= static_cast<std::size_t>(sent);
    } else if (sent < 0 && errno == EINTR) {
      continue;
    } else if (!(sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) || !waitFor(socket, POLLOUT, deadline)) {
      return false;
    }
  }
  return true;
}

bool receiveAll(int socket, char* data, std::size_t bytes, double deadline) {
  while (bytes > 0) {
    const ssize_t received = recv(socket, data, bytes, 0);
    if (received > 0) {
      data += received;
      bytes -= static_cast<std::size_t>(received);
    } else if (received < 0 && errno == EINTR) {
      continue;
    } else if (!(received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) || !waitFor(socket, POLLIN, deadline)) {
      return false;
    }
  }
  return true;
}

void prepare(int socket) {
  const int one = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
}

/// Echoes messages whose length comes first, until the connection closes.
[[noreturn]] void echo(const sockaddr_in& address, char* buffer, std::size_t capacity, int core, double seconds) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
  if (core >= 0) pinToCore(core);
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  if (connection < 0 || connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) _exit(1);
  prepare(connection);
  for (;;) {
    std::uint64_t header[2];
    const double deadline = now() + seconds;
    if (!receiveAll(connection, reinterpret_cast<char*>(header), sizeof header, deadline)) _exit(0);
    if (header[0] > capacity) _exit(1);
    for (std::uint64_t round = 0; round < header[1]; ++round) {
      const double end = now() + seconds;
      if (!receiveAll(connection, buffer, header[0], end)) _exit(0);
      // Shows that the answer went through this process.
      ++buffer[0];
      if (!sendAll(connection, buffer, header[0], end)) _exit(0);
    }
  }
}

[[noreturn]] void refuse(const char* call) {
  throw BackendError(std::string("The system refused ") + call + " for the loopback probe: " + std::strerror(errno) +
                     ".");
}

}  // namespace

Loopback::Loopback(std::size_t largestBytes, int partnerCore, double deadlineSeconds)
    : buffer_(largestBytes), deadlineSeconds_(deadlineSeconds) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (listener < 0) refuse("a socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  // Only this host can connect; the system picks a free port.
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    close(listener);
    refuse("a loopback port");
  }
  // The partner writes into its own copy of this buffer.
  partner_ = fork();
  if (partner_ == 0) {
    close(listener);
    echo(address, buffer_.data(), buffer_.size(), partnerCore, deadlineSeconds_);
  }
  if (partner_ < 0) {
    close(listener);
    refuse("a second process");
  }
  const bool arrived = waitFor(listener, POLLIN, now() + deadlineSeconds_);
  if (arrived) socket_ = accept(listener, nullptr, nullptr);
  close(listener);
  if (socket_ < 0) {
    kill(partner_, SIGKILL);
    waitpid(partner_, nullptr, 0);
    throw BackendError("The partner process of the loopback probe did not connect in time.");
  }
  prepare(socket_);
}

Loopback::~Loopback() {
  close(socket_);
  kill(partner_, SIGKILL);
  waitpid(partner_, nullptr, 0);
}

double Loopback::pingPong(std::size_t bytes, std::uint64_t rounds) {
  if (bytes < 2 || bytes > buffer_.size()) throw BackendError("The message does not fit into the buffer.");
  const std::uint64_t header[2] = {bytes, rounds};
  const double deadline = now() + deadlineSeconds_;
  bool works = sendAll(socket_, reinterpret_cast<const char*>(header), sizeof header, deadline);
  const auto stamp = static_cast<char>(bytes * 31 + 1);
  buffer_[0] = stamp;
  buffer_[bytes - 1] = stamp;
  const double start = now();
  for (std::uint64_t round = 0; works && round < rounds; ++round) {
    works = sendAll(socket_, buffer_.data(), bytes, deadline) && receiveAll(socket_, buffer_.data(), bytes, deadline);
  }
  const double seconds = now() - start;
  if (!works) throw BackendError("The partner process of the loopback probe did not answer in time.");
  if (buffer_[0] != static_cast<char>(bytes * 31 + 1 + rounds) || buffer_[bytes - 1] != stamp) {
    throw BackendError("The partner process of the loopback probe sent back other bytes than it got.");
  }
  return seconds;
}

std::vector<std::size_t> loopbackSizes(bool quick) {
  std::vector<std::size_t> sizes{8};
  for (std::size_t bytes = 4096; bytes <= std::size_t{16} << 20; bytes *= quick ? 8 : 4) sizes.push_back(bytes);
  if (sizes.back() != std::size_t{16} << 20) sizes.push_back(std::size_t{16} << 20);
  return sizes;
}

}  // namespace mpopt::cpu
