#include "dynamic_library.h"

#include <dlfcn.h>
#include <sys/stat.h>

namespace mpopt {

std::unique_ptr<DynamicLibrary> DynamicLibrary::open(const std::string& file, std::string* error) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle) return std::unique_ptr<DynamicLibrary>(new DynamicLibrary(handle, file));
  const char* reason = dlerror();
  if (error) *error = reason ? reason : "unknown reason";
  return nullptr;
}

std::unique_ptr<DynamicLibrary> DynamicLibrary::find(const std::vector<std::string>& folders,
                                                     const std::vector<std::string>& sonames, std::string* error) {
  std::string why;
  for (const std::string& folder : folders) {
    for (const std::string& soname : sonames) {
      const std::string file = folder + "/" + soname;
      struct stat status {};
      if (stat(file.c_str(), &status) != 0) continue;
      if (auto library = open(file, &why)) return library;
      // A library that is there but broken explains more than one that is not there.
      if (error && error->empty()) *error = why;
    }
  }
  for (const std::string& soname : sonames) {
    if (auto library = open(soname, &why)) return library;
  }
  if (error && error->empty()) *error = why;
  return nullptr;
}

void* DynamicLibrary::symbol(const char* name) const { return dlsym(handle_, name); }

}  // namespace mpopt
