// Files of diagnosis under attack: names that are FIFOs, links and folders, disks that are full, and texts of any bytes.
// Nothing hangs, and nothing is lost without a word.
#include <array>
#include <functional>

#include <csignal>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <sp/threads.hpp>

#include "diagnosis/scratch.hpp"
#include "support/failure.hpp"

namespace test_files {

using namespace diagnosis_tests;
using sp::diagnosis::level;

namespace {

/// What `body` makes the process say on stderr; by a pipe, which holds 64 KiB.
std::string said(std::function<void()> const& body) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  int const before = ::dup(2);
  ::dup2(ends[1], 2);
  ::close(ends[1]);
  body();
  ::dup2(before, 2);
  ::close(before);
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t n; (n = ::read(ends[0], part.data(), part.size())) > 0;) text.append(part.data(), std::size_t(n));
  ::close(ends[0]);
  return text;
}

/// Two ranks that meet 30 times; the second then falls over `why`.
void fail_with(std::string const& why) {
  try {
    sp::threads::run(2, [&](sp::threads const& c) {
      for (int i = 0; i < 30; ++i) c.barrier();
      if (c.rank() == 1) throw std::runtime_error(why);
      c.barrier();
    });
    FAIL("nothing failed");
  } catch (std::runtime_error const&) {
  }
}

/// Everything goes to `path` below the folder: the log, the flight records, the trace.
sp::diagnosis::settings all_in(scratch const& folder, std::string const& path) {
  return {.log = level::trace,
          .log_file = folder / (path + "log"),
          .flight_file = folder / (path + "flight.%r"),
          .trace_file = folder / (path + "trace.%r")};
}

} // namespace

TEST_CASE("files: a FIFO, a device, a folder or a link under the name of a file is refused, and nothing hangs") {
  scratch folder;
  std::string const names[]{"log", "flight.0", "flight.1", "trace.0", "trace.1"};
  for (std::string const kind : {"fifo", "fifo with a reader", "link", "folder"}) {
    std::filesystem::create_directories(folder / kind);
    std::vector<int> readers;
    for (auto const& name : names) {
      std::string const path = folder / (kind + "/" + name);
      if (kind.starts_with("fifo")) REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
      if (kind.ends_with("reader")) readers.push_back(::open(path.c_str(), O_RDONLY | O_NONBLOCK));
      if (kind == "link") std::filesystem::create_symlink(folder / ("target." + name), path);
      if (kind == "folder") std::filesystem::create_directories(path);
    }
    sp::diagnosis::configure(all_in(folder, kind + "/"));
    std::string const text = said([&] { fail_with("the disk was a pipe"); });
    INFO(kind << ": " << text);
    for (auto const& name : names)
      CHECK(count(text, "sp: " + (folder / (kind + "/" + name)) + " cannot be written: " +
                            (kind == "link"     ? "Too many levels of symbolic links"
                             : kind == "folder" ? "Is a directory"
                                                : "not a regular file") +
                            "\n") == 1);
    CHECK(has(text, " ERROR COLL the disk was a pipe\n")); // the log goes on here
    for (int fd : readers) ::close(fd);
    CHECK(!std::filesystem::exists(folder / "target.log"));
  }
  CHECK(has(said([] { sp::detail::private_file const device("/dev/null"); }), "/dev/null cannot be written: not a regular file"));
}

TEST_CASE("files: links on the way are followed unless a stranger put them where everybody may write") {
  scratch folder;
  std::filesystem::create_directories(folder / "disk/run");
  std::filesystem::create_directories(folder / "open");
  std::filesystem::create_directory_symlink("../disk", folder / "open/mine"); // relative to where it lies
  std::filesystem::create_directory_symlink(folder / "open/mine/run", folder / "far");
  REQUIRE(::chmod((folder / "open").c_str(), 0777) == 0);
  for (std::string const way : {"open/mine/run/", "far/", "open//mine/./../open/mine/run/"}) {
    sp::detail::private_file const file(folder / (way + "x"));
    CHECK((file.good() && file.write("through " + way)));
    CHECK(text_of(folder / "disk/run/x") == "through " + way);
  }
  std::filesystem::create_directory_symlink("loop", folder / "loop");
  CHECK(has(said([&] { CHECK(!sp::detail::private_file(folder / "loop/x").good()); }), "symbolic links"));
  CHECK(has(said([&] { CHECK(!sp::detail::private_file(folder / "absent/x").good()); }), "No such file"));
  if (::geteuid() != 0) {
    MESSAGE("only root can plant the link of a stranger");
    return;
  }
  std::filesystem::create_directory_symlink("../disk", folder / "open/theirs");
  REQUIRE(::lchown((folder / "open/theirs").c_str(), 12345, 12345) == 0);
  CHECK(has(said([&] { CHECK(!sp::detail::private_file(folder / "open/theirs/y").good()); }), "Permission denied"));
  CHECK(!std::filesystem::exists(folder / "disk/y"));
  REQUIRE(::chmod((folder / "open").c_str(), 0775) == 0); // the group of the folder is many as well
  CHECK(has(said([&] { CHECK(!sp::detail::private_file(folder / "open/theirs/y").good()); }), "Permission denied"));
  REQUIRE(::chmod((folder / "open").c_str(), 0755) == 0); // now only its owner could have put it there
  CHECK(sp::detail::private_file(folder / "open/theirs/y").good());
  REQUIRE(::lchown((folder / "disk/y").c_str(), 12345, 12345) == 0); // a file that somebody else can read, ready to be filled
  CHECK(has(said([&] { CHECK(!sp::detail::private_file(folder / "disk/y").good()); }), "Operation not permitted"));
}

TEST_CASE("files: a hard link under the name of a file is refused, and the file behind it keeps its content and its mode") {
  scratch folder;
  std::ofstream(folder / "precious") << "the only copy";
  REQUIRE(::chmod((folder / "precious").c_str(), 0644) == 0);
  for (bool append : {false, true}) {
    std::string const name = folder / (append ? "log" : "trace.0");
    std::filesystem::create_hard_link(folder / "precious", name);
    std::string const text = said([&] { CHECK(!sp::detail::private_file(name, append).good()); });
    CHECK(text == "sp: " + name + " cannot be written: Too many links\n");
  }
  CHECK(text_of(folder / "precious") == "the only copy");
  struct stat about {};
  REQUIRE(::stat((folder / "precious").c_str(), &about) == 0);
  CHECK((about.st_mode & 0777) == 0644);
}

namespace {

/// What `body` makes the process say while no file grows beyond `bytes`.
std::string said_on_full_disk(rlim_t bytes, std::function<void()> const& body) {
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto const handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = bytes;
  std::string text = said([&] {
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    body();
    static_cast<void>(::setrlimit(RLIMIT_FSIZE, &before));
  });
  std::signal(SIGXFSZ, handler);
  return text;
}

} // namespace

TEST_CASE("files: a trace is JSON while the disk is full and afterwards, with the events from before and after") {
  for (bool from_the_start : {true, false}) {
    scratch folder;
    sp::diagnosis::configure({.trace_file = folder / "trace"});
    auto events = [&] { // with their names; 0 where the file is no JSON
      auto const o = run("python3 -c 'import json, sys; t = json.load(open(sys.argv[1])); "
                         "print(sum(e[\"ph\"] == \"X\" for e in t), sum(e[\"name\"] == \"process_name\" for e in t))' " +
                         (folder / "trace"));
      INFO(o.text);
      CHECK(o.code == 0);
      int all = 0, names = 0;
      std::stringstream(o.text) >> all >> names;
      CHECK((names > 0) == (all > 0));
      return all;
    };
    if (!from_the_start) fail_with("before");
    int const before = from_the_start ? 0 : events();
    CHECK((before > 0) != from_the_start);
    auto const room = from_the_start ? 1000 : std::filesystem::file_size(folder / "trace") + 1000;
    CHECK(has(said_on_full_disk(rlim_t(room), [&] { fail_with("out of paper"); }), "has lost what came last"));
    CHECK(events() >= before); // what is small may still find room
    fail_with("after");
    CHECK(events() >= before + 2 * 30);
  }
}

TEST_CASE("files: what a full disk loses is told, once for a file") {
  scratch folder;
  sp::diagnosis::configure(all_in(folder, ""));
  std::string const text = said_on_full_disk(1000, [&] { fail_with("out of paper"); });
  INFO(text);
  for (std::string const name : {"log", "flight.0", "flight.1", "trace.0", "trace.1"})
    CHECK(count(text, "sp: " + (folder / name) + " has lost what came last: File too large\n") == 1);
}

TEST_CASE("texts: JSON holds any bytes, and nothing is cut within a character") {
  struct sample {
    std::string raw, json;
  };
  for (sample const& s :
       {sample{"", ""}, sample{"a\"b\\c\n\x01", "a\\\"b\\\\c\\u000a\\u0001"}, sample{"\x7f", "\x7f"},
        sample{"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf",
               "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf"},
        sample{"\xc3", "\\\\xc3"}, sample{"\xe2\x82", "\\\\xe2\\\\x82"}, sample{"\x80z", "\\\\x80z"},
        sample{"\xc0\x80", "\\\\xc0\\\\x80"}, sample{"\xe0\x9f\xbf", "\\\\xe0\\\\x9f\\\\xbf"},
        sample{"\xed\xa0\x80", "\\\\xed\\\\xa0\\\\x80"}, sample{"\xf4\x90\x80\x80", "\\\\xf4\\\\x90\\\\x80\\\\x80"},
        sample{"\xf0\x8f\xbf\xbf", "\\\\xf0\\\\x8f\\\\xbf\\\\xbf"}, sample{"\xff\xc3\xa9", "\\\\xff\xc3\xa9"},
        sample{"\xf0\x9f\x98 ", "\\\\xf0\\\\x9f\\\\x98 "}, sample{std::string(1, '\0'), "\\u0000"}})
    CHECK(sp::detail::json_text(s.raw) == "\"" + s.json + "\"");
  std::string const text = "z\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
  std::size_t const whole[]{0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
  for (std::size_t n = 0; n <= text.size(); ++n)
    CHECK(sp::detail::whole_characters(std::string_view(text).substr(0, n)).size() == whole[n]);
}

/// More than a line of the log holds, of characters of three bytes.
std::string const any_bytes = [] {
  std::string why = "caf\xc3\xa9 \xff\x1b[31m \"quoted\"\nsecond line \\";
  for (int i = 0; i < 1000; ++i) why += "\xe2\x82\xac";
  return why;
}();

TEST_CASE("texts: a failure that holds any bytes is one line of the log, which ends with a whole character") {
  for (std::string const before : {"", "1", "12"}) { // wherever the line ends
    scratch folder;
    sp::diagnosis::configure(all_in(folder, ""));
    fail_with(before + any_bytes);
    std::string const log = text_of(folder / "log");
    std::size_t const at = log.find("caf\xc3\xa9 \xff [31m \"quoted\" second line \\\xe2\x82\xac");
    REQUIRE(at != std::string::npos);
    std::string const line = log.substr(log.rfind('\n', at) + 1, log.find('\n', at) - log.rfind('\n', at) - 1);
    CHECK((line.size() >= 2043 && line.size() <= 2046)); // as much as a line holds
    CHECK(line.ends_with("\xe2\x82\xac"));
  }
}

TEST_CASE("texts: a failure that holds any bytes leaves records that the tool reads") {
  scratch folder;
  sp::diagnosis::configure(all_in(folder, ""));
  fail_with(any_bytes);
  auto const o = run(tool() + (folder / "flight.*"));
  INFO(o.text);
  CHECK((o.code == 0 || o.code == 1)); // chance tells if rank 0 had left the last barrier that both came to; 2: not readable
  CHECK(has(o.text, "2 of 2 ranks left a flight record\n"));
  CHECK(has(o.text, "failure of rank 1: caf\xc3\xa9 \\xff?[31m \"quoted\"?second line \\\xe2\x82\xac"));
  std::string other = text_of(folder / "flight.0");
  other.replace(other.find("caf"), 1, "\xff");
  std::ofstream(folder / "flight.0") << other; // as somebody else might have written it
  std::filesystem::remove(folder / "flight.1");
  CHECK(has(run(tool() + (folder / "flight.0")).text, "1 of 2 ranks left a flight record\n"));
}

} // namespace test_files
