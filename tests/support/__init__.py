"""What several kinds of tests need: slices by the dozen, packets by Scapy, TCP servers and clients that check what they carry."""
