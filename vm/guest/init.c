// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of a djprobes guest: small, static, and quick to a listening sshd.
 *
 * It lives in the initrd.  With `djp_check=1` on the kernel command line it
 * only tests the emulator (check.c) and powers off.  Otherwise:
 *
 *	load /mods/NN-*.ko in order		(virtio, ext4: no Debian kernel has
 *						them built in)
 *	mount /dev/vda (root, writable overlay) and /dev/vdb (this kernel's
 *	modules and headers, read-only), move into the root
 *	network, sshd, a root shell on the serial console
 *	say "djp: ready ..." on the control line once sshd listens
 *	serve the control line, reap children, for ever
 *
 * The control line is the second serial port, ttyS1, so that nothing printed on
 * the console can be taken for it and no driver module is needed to speak on
 * it.  Requests are lines; each gets one line that starts with "djp: ":
 *
 *	status			djp: ready release=... uptime_ms=...
 *	restored SECONDS NANOS SEED
 *				djp: ok restored	(the time, and random digits: a
 *				restored guest is a copy of others, and stock kernels
 *				have no driver for the device that would tell it so)
 *	poweroff		djp: ok poweroff
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/random.h>
#include <linux/route.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define WAIT_MS 60000		/* longest wait for a disk or for sshd; the host gives up first */

static int control = -1;	/* ttyS1 */
static pid_t sshd = -1, shell = -1;

void say(const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n < 0)
		return;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (control >= 0) {
		for (int at = 0; at < n;) {
			ssize_t done = write(control, line + at, n - at);

			if (done <= 0)
				break;
			at += done;
		}
	}
	/* answers to the host are no news for who reads the console */
	if (strncmp(line, "djp: ok", 7) && write(STDOUT_FILENO, line, n) < 0)
		return;		/* no console: the control line has it */
}

void power_off(void)
{
	sync();
	if (control >= 0)
		tcdrain(control);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

/* Say why on both lines and stop: the host turns it into a BootError. */
void fail(const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say("djp: failed %s", text);
	power_off();
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* One step of a wait for something the kernel has no event for this early. */
static void nap(void)
{
	struct timespec t = { .tv_nsec = 2000000 };

	nanosleep(&t, NULL);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		say("djp: note can't write %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, data))
		fail("mount %s on %s: %s", source, target, strerror(errno));
}

/* A file system that not every kernel has. */
static void try_mount(const char *source, const char *target, const char *type,
		      unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, data) && errno != ENODEV && errno != ENOENT &&
	    errno != EBUSY)
		say("djp: note mount %s on %s: %s", type, target, strerror(errno));
}

static void open_control(void)
{
	struct termios raw;

	control = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (control < 0)
		return;
	if (tcgetattr(control, &raw) == 0) {
		cfmakeraw(&raw);
		cfsetspeed(&raw, B115200);
		raw.c_cflag |= CLOCAL | CREAD;
		tcsetattr(control, TCSANOW, &raw);
	}
}

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* --- coming up ------------------------------------------------------------ */

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void load_modules(const char *folder)
{
	struct dirent **names;
	int n = scandir(folder, &names, NULL, by_name);

	for (int i = 0; i < n; i++) {
		char path[512];
		int fd;

		if (names[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			say("djp: note can't load %s: %s", path, strerror(errno));
		close(fd);
	}
}

static void wait_for(const char *path)
{
	long end = now_ms() + WAIT_MS;

	while (access(path, F_OK)) {
		if (now_ms() > end)
			fail("no %s after %d s", path, WAIT_MS / 1000);
		nap();
	}
}

static void copy_file(const char *from, const char *to, mode_t mode)
{
	char buffer[4096];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	ssize_t n;

	if (in < 0 || out < 0)
		fail("copy %s to %s: %s", from, to, strerror(errno));
	while ((n = read(in, buffer, sizeof(buffer))) > 0)
		if (write(out, buffer, n) != n)
			fail("write %s: %s", to, strerror(errno));
	close(in);
	close(out);
}

/* The kernel disk has modules/ and src/ at its top; they go where tools look. */
static void mount_kernel_disk(void)
{
	must_mount("/dev/vdb", "/sysroot/mnt", "ext4", MS_RDONLY, NULL);
	if (mount("/sysroot/mnt/modules", "/sysroot/usr/lib/modules", NULL, MS_BIND, NULL) ||
	    mount("/sysroot/mnt/src", "/sysroot/usr/src", NULL, MS_BIND, NULL))
		fail("bind the kernel disk: %s", strerror(errno));
}

static void enter_root(void)
{
	wait_for("/dev/vda");
	wait_for("/dev/vdb");
	must_mount("/dev/vda", "/sysroot", "ext4", MS_NOATIME, NULL);
	mount_kernel_disk();
	must_mount("tmpfs", "/sysroot/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
	mkdir("/sysroot/run/djp", 0755);
	copy_file("/keys/authorized_keys", "/sysroot/run/djp/authorized_keys", 0600);
	copy_file("/keys/host_key", "/sysroot/run/djp/host_key", 0600);
	if (mount("/dev", "/sysroot/dev", NULL, MS_MOVE, NULL) ||
	    mount("/proc", "/sysroot/proc", NULL, MS_MOVE, NULL) ||
	    mount("/sys", "/sysroot/sys", NULL, MS_MOVE, NULL))
		fail("move the mounts: %s", strerror(errno));
	if (chdir("/sysroot") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("enter the root: %s", strerror(errno));
}

static void mount_rest(void)
{
	must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	must_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	must_mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	try_mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	try_mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	try_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
	try_mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700");
	/* what the shell and Python expect of a /dev */
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

static void set_address(int fd, const char *name, unsigned long request, const char *address)
{
	struct ifreq request_data = { 0 };
	struct sockaddr_in *in = (struct sockaddr_in *)&request_data.ifr_addr;

	snprintf(request_data.ifr_name, sizeof(request_data.ifr_name), "%s", name);
	in->sin_family = AF_INET;
	inet_pton(AF_INET, address, &in->sin_addr);
	if (ioctl(fd, request, &request_data))
		fail("set %s of %s: %s", address, name, strerror(errno));
}

static void bring_up(int fd, const char *name)
{
	struct ifreq request = { 0 };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &request))
		fail("no interface %s: %s", name, strerror(errno));
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		fail("bring up %s: %s", name, strerror(errno));
}

/* QEMU's user network is always the same: no DHCP needed. */
static void network(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in *gateway = (struct sockaddr_in *)&route.rt_gateway;

	bring_up(fd, "lo");
	set_address(fd, "eth0", SIOCSIFADDR, "10.0.2.15");
	set_address(fd, "eth0", SIOCSIFNETMASK, "255.255.255.0");
	bring_up(fd, "eth0");
	route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
	gateway->sin_family = AF_INET;
	inet_pton(AF_INET, "10.0.2.2", &gateway->sin_addr);
	if (ioctl(fd, SIOCADDRT, &route) && errno != EEXIST)
		fail("default route: %s", strerror(errno));
	close(fd);
}

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "SHELL=/bin/bash", "TERM=vt100", "LC_ALL=C.UTF-8", NULL,
};

static pid_t spawn(char *const argv[], const char *tty)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (tty) {
		int fd = open(tty, O_RDWR);

		if (fd < 0)
			_exit(127);
		ioctl(fd, TIOCSCTTY, 1);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
	}
	if (chdir("/root"))
		_exit(127);
	execve(argv[0], argv, environment);
	_exit(127);
}

static void start_sshd(void)
{
	static char *const argv[] = { "/usr/sbin/sshd", "-D", NULL };

	mkdir("/run/sshd", 0755);
	sshd = spawn(argv, NULL);
}

static void start_shell(void)
{
	static char *const argv[] = { "/bin/bash", "-i", NULL };

	shell = spawn(argv, "/dev/ttyS0");
}

/* Listening means: it accepts and says who it is. */
static int sshd_answers(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(22) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char banner[5] = "";
	int good;

	inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
	good = !connect(fd, (struct sockaddr *)&to, sizeof(to)) && poll(&wait, 1, WAIT_MS) == 1 &&
	       read(fd, banner, 4) == 4 && !strcmp(banner, "SSH-");
	close(fd);
	return good;
}

static void wait_for_sshd(void)
{
	long end = now_ms() + WAIT_MS;
	int status;

	while (!sshd_answers()) {
		if (waitpid(sshd, &status, WNOHANG) == sshd)
			fail("sshd ended with status %d", status);
		if (now_ms() > end)
			fail("sshd does not answer after %d s", WAIT_MS / 1000);
		nap();
	}
}

static void ready(void)
{
	struct utsname name;

	uname(&name);
	say("djp: ready release=%s uptime_ms=%ld", name.release, now_ms());
}

/* --- staying up ----------------------------------------------------------- */

/* Mix `seed` into the random pool and have the kernel draw from it at once. */
static int reseed(const char *seed)
{
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	int bad = fd < 0 || write(fd, seed, strlen(seed)) < 0 || ioctl(fd, RNDRESEEDCRNG);

	if (fd >= 0)
		close(fd);
	return bad;
}

static void obey(const char *line)
{
	struct timespec t;
	char seed[65];

	if (!strcmp(line, "status")) {
		ready();
	} else if (sscanf(line, "restored %ld %ld %64s", &t.tv_sec, &t.tv_nsec, seed) == 3) {
		if (clock_settime(CLOCK_REALTIME, &t) || reseed(seed))
			say("djp: error restored: %s", strerror(errno));
		else
			say("djp: ok restored");
	} else if (!strcmp(line, "poweroff")) {
		say("djp: ok poweroff");
		power_off();
	} else if (*line) {
		say("djp: error no such request");
	}
}

static void read_control(void)
{
	static char line[256];
	static size_t used;
	char bytes[64];
	ssize_t n = read(control, bytes, sizeof(bytes));

	for (ssize_t i = 0; i < n; i++) {
		if (bytes[i] == '\n') {
			line[used] = '\0';
			obey(line);
			used = 0;
		} else if (used < sizeof(line) - 1) {
			line[used++] = bytes[i];
		}
	}
}

static void reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == shell)
			start_shell();	/* someone typed exit */
		else if (pid == sshd)
			say("djp: note sshd ended with status %d", status);
	}
}

static void serve(void)
{
	sigset_t set;
	struct pollfd fds[2];

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);	/* `kill 1` */
	sigaddset(&set, SIGINT);	/* ctrl-alt-del */
	sigaddset(&set, SIGUSR2);	/* busybox's poweroff */
	sigprocmask(SIG_BLOCK, &set, NULL);
	fds[0] = (struct pollfd){ .fd = signalfd(-1, &set, SFD_CLOEXEC), .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = control, .events = POLLIN };
	reap();			/* those that ended before the signal was blocked */
	for (;;) {
		struct signalfd_siginfo got;

		if (poll(fds, control < 0 ? 1 : 2, -1) < 0)
			continue;
		if (fds[0].revents && read(fds[0].fd, &got, sizeof(got)) == sizeof(got)) {
			if (got.ssi_signo != SIGCHLD)
				power_off();
			reap();
		}
		if (control >= 0 && fds[1].revents)
			read_control();
	}
}

int main(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (getpid() != 1) {
		fprintf(stderr, "this is PID 1 of a djprobes guest\n");
		return 1;
	}
	must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
	open_console();
	open_control();
	must_mount("proc", "/proc", "proc", 0, NULL);
	must_mount("sysfs", "/sys", "sysfs", 0, NULL);
	reboot(RB_DISABLE_CAD);
	if (getenv("djp_check"))	/* the kernel hands unknown NAME=VALUE words to init */
		check_emulator();
	sethostname("djprobes", 8);
	load_modules("/mods");
	enter_root();
	mount_rest();
	network();
	start_sshd();
	start_shell();
	wait_for_sshd();
	put("/run/djp/ready", "1\n");
	ready();
	serve();
	return 0;
}
