// Every header in one translation unit, in alphabetical order; b.cpp includes them in the opposite order.
// The program links only if no header defines a symbol twice, and runs only if both units see the same functions.
#include <all_headers.hpp>

sp::error_handler handler_seen_by_b();

int main() {
  auto const mine = [](sp::error_info const&) {};
  sp::set_error_handler(mine);
  return handler_seen_by_b() == sp::error_handler(mine) ? 0 : 1;
}
