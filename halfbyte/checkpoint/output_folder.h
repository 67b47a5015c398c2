// read_text() for apps/halfbyte/bench_*; it lives in model_files.h now.
#pragma once

#include "halfbyte/checkpoint/model_files.h"  // IWYU pragma: export
