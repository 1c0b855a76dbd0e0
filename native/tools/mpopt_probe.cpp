// The profiler as one executable, for nodes without Node.js. Prints the report as JSON on stdout, progress on
// stderr. Exit code 1 when the backend cannot work, 2 when the call is wrong.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "mpopt/isolate.h"
#include "mpopt/profiler.h"

namespace {

constexpr const char* usage =
    "Usage: mpopt-probe --backend cpu|cuda [--quick] [--list] [--devices N] [--seconds S]\n"
    "  --list       only the devices, nothing is measured\n"
    "  --quick      fewer sizes, under 10 s\n"
    "  --devices N  occupy N devices at once\n"
    "  --seconds S  time limit of all probes together\n";

int wrong(const std::string& message) {
  std::fprintf(stderr, "mpopt-probe: %s\n%s", message.c_str(), usage);
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  std::string backend;
  bool list = false;
  mpopt::Request request;
  for (int i = 1; i < count; ++i) {
    const std::string option = arguments[i];
    if (option == "--help") {
      std::fputs(usage, stdout);
      return 0;
    }
    if (option == "--quick") {
      request.quick = true;
      continue;
    }
    if (option == "--list") {
      list = true;
      continue;
    }
    if (option != "--backend" && option != "--devices" && option != "--seconds") {
      return wrong("Expected an option but found " + option + ".");
    }
    if (++i == count) return wrong("Expected a value after " + option + ".");
    if (option == "--backend") {
      backend = arguments[i];
      continue;
    }
    char* end = nullptr;
    const double number = std::strtod(arguments[i], &end);
    if (*end != '\0' || !(number > 0)) return wrong("Expected a number above 0 after " + option + ".");
    if (option == "--devices") request.devices = static_cast<int>(number);
    if (option == "--seconds") request.budgetSeconds = number;
  }
  if (backend != "cpu" && backend != "cuda") return wrong("Expected --backend cpu or --backend cuda.");

  // Setting up takes time beside the budget of the probes.
  const double deadline = list ? 30 : 2 * (request.budgetSeconds > 0 ? request.budgetSeconds : 40) + 60;
  try {
    const std::string report = mpopt::runIsolated(
        [&] {
          const auto profiler = mpopt::makeBackend(backend);
          if (list) return mpopt::toJson(profiler->list());
          return mpopt::toJson(profiler->profile(request, [](double fraction, const std::string& message) {
            std::fprintf(stderr, "%3.0f %% %s\n", 100 * fraction, message.c_str());
          }));
        },
        deadline);
    std::printf("%s\n", report.c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpopt-probe: %s\n", error.what());
    return 1;
  }
}
