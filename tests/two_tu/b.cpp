// The second translation unit of the link test: the headers in reversed order.
// It reports the error handler it sees, the one process-wide value of sp.
#include <all_headers_reversed.hpp>

sp::error_handler handler_seen_by_b() { return sp::set_error_handler(nullptr); }
