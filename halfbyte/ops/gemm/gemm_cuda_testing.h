// Test support: device memory.
#pragma once

#include "halfbyte/ops/common/testing_device.h"
