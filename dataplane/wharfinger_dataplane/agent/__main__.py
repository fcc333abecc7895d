from wharfinger_dataplane.agent.main import main

main()
