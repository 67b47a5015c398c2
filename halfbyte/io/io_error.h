// How a refusal of the operating system is reported.
#pragma once

#include <string>
#include <system_error>

#include "halfbyte/base/status.h"

namespace halfbyte::io {

// "path: what: reason", the reason being the system's text for `error`, an errno.
inline base::Status io_error(const std::string& path, const std::string& what, int error) {
  return {base::StatusCode::kIo,
          path + ": " + what + ": " + std::generic_category().message(error)};
}

}  // namespace halfbyte::io
