#pragma once

#include <memory>
#include <string>
#include <vector>

namespace mpopt {

/// A shared library opened at run time. It stays open: drivers and BLAS libraries start threads that would
/// outlive their code.
class DynamicLibrary {
 public:
  /// Null where the library does not open; `error` then says why.
  static std::unique_ptr<DynamicLibrary> open(const std::string& file, std::string* error = nullptr);
  /// Tries soname after soname in each of the folders, then each plain soname by the system's own search.
  static std::unique_ptr<DynamicLibrary> find(const std::vector<std::string>& folders,
                                              const std::vector<std::string>& sonames, std::string* error = nullptr);

  /// Address of a symbol, null where there is none.
  void* symbol(const char* name) const;
  /// The file that was loaded.
  const std::string& path() const { return path_; }

 private:
  DynamicLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  void* handle_;
  std::string path_;
};

}  // namespace mpopt
