/* Why a packet left a decision chain the way it did: one list for the enum, the counters, the metrics' label,
 * the words of the CLI and the trace attribute. REASON(name, outcome, words). The numbers are the order of
 * this list: what is not appended needs another layout of the maps (kernel.py, LAYOUT). */
#ifndef WHARFINGER_REASONS_H
#define WHARFINGER_REASONS_H

#define WHARFINGER_REASONS(REASON) \
	REASON(none, PASS, "no decision was made") \
	REASON(not_ip, PASS, "the packet is not IPv4") \
	REASON(not_tcp, PASS, "the protocol is not TCP") \
	REASON(truncated, PASS, "the headers are shorter than they say") \
	REASON(fragment, PASS, "the packet is a fragment") \
	REASON(not_attached, PASS, "the pod has no translator") \
	REASON(foreign_source, PASS, "the source address is not the pod's own") \
	REASON(not_ours, PASS, "no pool, record or service port of ours is concerned") \
	REASON(not_virtual, PASS, "the destination is not a virtual address of any pool") \
	REASON(unknown_port, PASS, "no pool declares this port of the virtual address") \
	REASON(no_record, PASS, "the connection began without redirection and stays so") \
	REASON(no_server, PASS, "no server of the redirect port's set is ready") \
	REASON(own_server, PASS, "the only ready server is the pod itself") \
	REASON(fast_open, PASS, "a SYN with data (Fast Open) is unaware by rule") \
	REASON(mptcp, PASS, "a Multipath TCP SYN is unaware by rule") \
	REASON(signed_segment, PASS, "a SYN with TCP-MD5 or TCP-AO is unaware by rule") \
	REASON(no_room, PASS, "the SYN's options leave no room for ours") \
	REASON(port_taken, PASS, "another connection uses this client port with this server") \
	REASON(table_full, PASS, "the tables of connections are full, or nearly") \
	REASON(third_syn, PASS, "two aware SYNs stayed unanswered, so the third is unaware") \
	REASON(client_syn, FORWARD, "an aware SYN to a redirect port goes to a chosen server") \
	REASON(client_syn_service, FORWARD, "an aware SYN to a service port goes to its server") \
	REASON(client_joins, FORWARD, "the client goes on at the service port that the server named") \
	REASON(client_sends, FORWARD, "the client sends to the service port") \
	REASON(client_sends_unredirected, FORWARD, \
	       "the client sends to the port it dialled: the server named no other") \
	REASON(client_redirected, DELIVER, "the server named a service port of its own") \
	REASON(client_confirmed, DELIVER, "the server confirmed and stays on the port dialled") \
	REASON(client_unconfirmed, DELIVER, "the server answered without redirection") \
	REASON(client_receives, DELIVER, "the server's packet goes to the client") \
	REASON(client_unsure, DROP, "the answer names a service port that is not the server's") \
	REASON(client_other_answer, DROP, "a second answer differs from the first, which stands") \
	REASON(server_syn, DELIVER, "an aware SYN to a redirect port reaches the server") \
	REASON(server_syn_service, DELIVER, "a SYN to a service port reaches the server") \
	REASON(server_joined, DELIVER, "the client arrived at the service port") \
	REASON(server_receives, DELIVER, "a packet to a service port reaches its server") \
	REASON(server_unentered, DELIVER, \
	       "a packet to a service port without a record: the server's stack decides") \
	REASON(server_answers, FORWARD, "the server's SYN+ACK names its service port") \
	REASON(server_refuses, FORWARD, "the server's stack refuses the connection") \
	REASON(server_sends, FORWARD, "the server sends from the service port") \
	REASON(server_rebuilt, FORWARD, "the server's stack knew the connection: its record is rebuilt") \
	REASON(net_service_port, FORWARD, "a packet to a local server's service port") \
	REASON(net_redirect_port, FORWARD, "an aware SYN to a local server") \
	REASON(net_client, FORWARD, "a packet of a local client's aware connection") \
	REASON(icmp_translated, DELIVER, "an ICMP error about a translated packet was translated back") \
	REASON(gate_opened, REFLECT, "the start gate's probe was answered") \
	REASON(stack_no_route, STACK, "the routing table has no direct way, so the stack takes it") \
	REASON(stack_too_big, STACK, "the packet is too big for the way, so the stack takes it") \
	REASON(stack_ttl, STACK, "the time to live ends here, so the stack takes it") \
	REASON(option_malformed, NOTE, "a malformed or unknown option was treated as absent") \
	REASON(rewrite_failed, DROP, "the kernel refused to change the packet") \
	REASON(server_direct, DELIVER, \
	       "a direct dial whose ports are taken goes on under a substitute client port") \
	REASON(server_no_substitute, DROP, "the client's port is taken and no substitute is free") \
	REASON(client_server_gone, ANSWER, \
	       "the server no longer has the connection's service port, so the client is reset") \
	REASON(server_stray, DROP, \
	       "a packet to a service port fits neither a record nor the stack's own connection") \
	REASON(forged_option, DROP, "the pod itself wrote a redirection option") \
	REASON(client_no_room, DROP, \
	       "the table is full when the server names its port, so the client begins again, unaware") \
	REASON(server_no_room, DELIVER, \
	       "the table is full when the client arrives: the connection lives among the closed ones") \
	REASON(policy_client, PASS, \
	       "a NetworkPolicy selects the client, so the connection is unaware by rule") \
	REASON(policy_server, DROP, \
	       "a NetworkPolicy selects the server, so the client's third SYN goes unaware") \
	REASON(policy_untranslated, PASS, \
	       "a NetworkPolicy selects the server, so what begins at its service port is not translated") \
	REASON(policy_service_port, DROP, \
	       "a NetworkPolicy selects the pod, so it may not dial a service port past it") \
	REASON(client_withheld, DROP, \
	       "an answer that lost its option on the way is not shown to the client, whose SYN comes " \
	       "again") \
	REASON(client_late, DROP, "an answer to a connection that has gone on unaware") \
	REASON(client_resets, ANSWER, \
	       "an answer to no connection of the client: its sender is reset at the service port it names") \
	REASON(server_opening, FORWARD, "the server's stack speaks before step 3, from its service port") \
	REASON(held, DROP, "the connections go to another release's tables: TCP repeats the packet") \
	REASON(vlan, PASS, "a frame with a VLAN tag is the stack's") \
	REASON(other_host, PASS, "a frame for another link address is the stack's") \
	REASON(may_fragment, PASS, "a SYN that routers may fragment (no DF) is unaware by rule") \
	REASON(server_may_fragment, DROP, \
	       "routers may fragment what the server sends (no DF): its client's third SYN is unaware") \
	REASON(reverse_path, PASS, \
	       "no route leads back to the source of a SYN or an ICMP error, or not by the interface it " \
	       "came by: the stack judges") \
	REASON(stack_no_hook, STACK, \
	       "the way leads by an interface, or to a pod, that bears no program of ours: the stack takes " \
	       "it") \
	REASON(stack_by_rule, STACK, \
	       "something at this node is not to be passed by (its NodeReport says what), so the stack " \
	       "takes all") \
	REASON(server_by_stack, DELIVER, \
	       "the server sends by the stack, which its client's SYN took as well") \
	REASON(server_full, DROP, \
	       "the server's tables are full, or nearly, so its client's third SYN goes unaware") \
	REASON(icmp_sent, FORWARD, \
	       "a pod's ICMP error about a packet of its connection speaks of it as the wire had it") \
	REASON(stack_source_route, STACK, \
	       "the packet has a source route, or IP options that are malformed: the stack judges and " \
	       "takes it") \
	REASON(server_asks, FORWARD, "the server asks its client to move (step 1)") \
	REASON(client_closes, ANSWER, \
	       "asked to move, the client's end closes the connection for its stack, at a quiet moment") \
	REASON(client_closes_again, FORWARD, \
	       "the client's end has said FIN: it goes again, in place of data") \
	REASON(client_busy, DROP, "asked to move, the client's end waits for a quiet moment") \
	REASON(client_stays, DROP, "asked to move, the client stays: its pool does not move connections") \
	REASON(client_ends, DROP, "the connection is ending already, so there is nothing to move or to say") \
	REASON(client_held_back, DROP, "what the client wrote after its end was closed is not sent") \
	REASON(client_wrote_late, ANSWER, \
	       "the client wrote to a connection that its server has closed: it is reset") \
	REASON(client_acknowledges, ANSWER, "a FIN is acknowledged in place of a stack that cannot")

#define WHARFINGER_REASON_ENUM(name, outcome, words) REASON_##name,
enum reason { WHARFINGER_REASONS(WHARFINGER_REASON_ENUM) REASON_COUNT };
#undef WHARFINGER_REASON_ENUM

#endif
