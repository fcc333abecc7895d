/* Sends COUNT copies of the frame on stdin by INTERFACE as fast as it takes them, from ADDRESSES sources in turn: the address counts up from the
 * frame's own, port and sequence number are scattered, checksums follow. For Ethernet, IPv4 without options, TCP.
 *
 *     flood INTERFACE COUNT ADDRESSES < frame
 *
 * Prints how many the kernel took and in how many seconds. Past the queueing discipline, by sendmmsg. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, FRAME = 256, IP = 14, TCP = 34, IP_SUM = IP + 10, IP_SRC = IP + 12, TCP_SPORT = TCP, TCP_SEQ = TCP + 4, TCP_SUM = TCP + 16 };

static unsigned char frame[BATCH][FRAME];
static struct iovec part[BATCH];
static struct mmsghdr message[BATCH];

static uint32_t word(const unsigned char *at) { uint32_t n; memcpy(&n, at, 4); return ntohl(n); }
static uint16_t half(const unsigned char *at) { uint16_t n; memcpy(&n, at, 2); return ntohs(n); }

/* RFC 1624 over the 16 bits at `at`, which become `to`; `sums`: the checksums that cover them, 0 at the end. */
static void change(unsigned char *f, int at, uint16_t to, const int *sums)
{
	uint16_t from = half(f + at), bytes = htons(to);

	memcpy(f + at, &bytes, 2);
	for (; *sums; sums++) {
		uint32_t sum = (uint16_t)~half(f + *sums) + (uint16_t)~from + to;

		sum = (sum & 0xffff) + (sum >> 16);
		bytes = htons((uint16_t)~((sum & 0xffff) + (sum >> 16)));
		memcpy(f + *sums, &bytes, 2);
	}
}

static void dress(unsigned char *f, uint32_t source, uint32_t n)
{
	static const int both[] = { IP_SUM, TCP_SUM, 0 }, tcp[] = { TCP_SUM, 0 };
	uint32_t scattered = n * 2654435761u;

	change(f, IP_SRC, (uint16_t)(source >> 16), both);
	change(f, IP_SRC + 2, (uint16_t)source, both);
	change(f, TCP_SPORT, (uint16_t)(1024 + scattered % 64000), tcp);
	change(f, TCP_SEQ, (uint16_t)(scattered >> 16), tcp);
	change(f, TCP_SEQ + 2, (uint16_t)scattered, tcp);
}

int main(int argc, char **argv)
{
	unsigned char model[FRAME];
	size_t length = fread(model, 1, sizeof model, stdin);
	int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1;
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	struct timespec began, ended;

	if (argc != 4 || length < TCP + 20 || model[IP] != 0x45) {
		fprintf(stderr, "usage: flood INTERFACE COUNT ADDRESSES < an IPv4 TCP frame\n");
		return 2;
	}
	to.sll_ifindex = (int)if_nametoindex(argv[1]);
	if (fd < 0 || !to.sll_ifindex || bind(fd, (struct sockaddr *)&to, sizeof to) ||
	    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on)) {
		perror(argv[1]);
		return 1;
	}
	for (int i = 0; i < BATCH; i++) {
		memcpy(frame[i], model, length);
		part[i] = (struct iovec){ frame[i], length };
		message[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1 };
	}

	uint32_t first = word(model + IP_SRC), count = (uint32_t)strtoul(argv[2], 0, 10), addresses = (uint32_t)strtoul(argv[3], 0, 10), sent = 0;
	clock_gettime(CLOCK_MONOTONIC, &began);
	while (sent < count) {
		int batch = count - sent < BATCH ? (int)(count - sent) : BATCH, at = 0;

		for (int i = 0; i < batch; i++)
			dress(frame[i], first + (sent + (uint32_t)i) % addresses, sent + (uint32_t)i);
		while (at < batch) { /* a full backlog refuses: again, so that the count is the count */
			int took = sendmmsg(fd, message + at, (unsigned)(batch - at), 0);
			if (took < 0 && errno != ENOBUFS && errno != EAGAIN) {
				perror("sendmmsg");
				return 1;
			}
			at += took > 0 ? took : 0;
		}
		sent += (uint32_t)batch;
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%u %.6f\n", sent, (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9);
	return 0;
}
