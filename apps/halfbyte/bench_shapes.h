// --shapes: a list, a named set of bench/shapes.json (built in), or a file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "apps/halfbyte/bench_case.h"
#include "halfbyte/base/status.h"

namespace halfbyte::app {

// "MxH,MxH" ("MxNxK" where the operator is a product), the name of a set, or the path of a JSON
// file: an array of "MxH" or [M, H], or
// {"m": [..], "h": [..]} for every pair of the two, or an object that holds one of these under the
// operator's name or under "shapes". Errors: kInvalidArgument for text that is none of the three,
// kData for a file without shapes.
base::Result<std::vector<BenchShape>> parse_shapes(const std::string& text,
                                                   std::string_view operator_name, bool product);

std::string shape_set_names();  // "cpu, small, h200"

}  // namespace halfbyte::app
