// Which sanitizer a program is compiled with, if any: SP_TEST_ADDRESS_SANITIZER, SP_TEST_THREAD_SANITIZER.
// g++ says it by macros, clang by features.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define SP_TEST_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SP_TEST_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SP_TEST_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SP_TEST_THREAD_SANITIZER 1
#endif
#endif
