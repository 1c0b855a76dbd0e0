#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

/// A test is a function that returns when it passes; each executable runs its own list.
namespace test {

struct Case {
  std::string name;
  std::function<void()> run;
};

struct Failure {
  std::string text;
};

inline void check(bool holds, const char* expression, const char* file, int line) {
  if (!holds) throw Failure{std::string(file) + ":" + std::to_string(line) + ": " + expression};
}

inline void near(double found, double expected, double tolerance, const char* file, int line) {
  if (!(std::abs(found - expected) <= tolerance)) {
    throw Failure{std::string(file) + ":" + std::to_string(line) + ": expected " + std::to_string(expected) +
                  " but found " + std::to_string(found)};
  }
}

/// The sentence of the exception that the function throws; a failure where it throws none.
template <class Error, class Function>
std::string thrown(const Function& function, const char* file, int line) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  throw Failure{std::string(file) + ":" + std::to_string(line) + ": expected an exception"};
}

inline int run(const std::vector<Case>& cases) {
  int failed = 0;
  for (const Case& one : cases) {
    try {
      one.run();
      std::printf("ok      %s\n", one.name.c_str());
    } catch (const Failure& failure) {
      ++failed;
      std::printf("FAILED  %s\n        %s\n", one.name.c_str(), failure.text.c_str());
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED  %s\n        %s\n", one.name.c_str(), error.what());
    }
  }
  std::printf("%zu passed, %d failed\n", cases.size() - static_cast<std::size_t>(failed), failed);
  return failed ? 1 : 0;
}

}  // namespace test

#define CHECK(expression) test::check((expression), #expression, __FILE__, __LINE__)
#define NEAR(found, expected, tolerance) test::near((found), (expected), (tolerance), __FILE__, __LINE__)
#define THROWN(Error, function) test::thrown<Error>((function), __FILE__, __LINE__)
